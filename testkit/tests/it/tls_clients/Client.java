// Two connections by Java's own TLS, which do as each line of the standard input says; each answers with a line of its own.
// The first one is of the HTTP client, which connects again by itself when its connection has ended.

import java.io.*;
import java.net.URI;
import java.net.http.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.*;

public class Client {
    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[0]);
        String[] versions = {args[2]};
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var file = Files.newInputStream(Path.of(args[1]))) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).sslContext(context)
            .sslParameters(new SSLParameters(null, versions)).build();
        var request = HttpRequest.newBuilder(URI.create("https://localhost:" + port + "/generation")).build();
        var socket = (SSLSocket) context.getSocketFactory().createSocket("localhost", port);
        socket.setEnabledProtocols(versions);
        socket.startHandshake();
        var input = new DataInputStream(socket.getInputStream());

        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            switch (line) {
                case "get" -> System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
                case "half" -> {
                    send(socket, "GET /ok HTTP/1.1\r\nHo");
                    System.out.println("sent");
                }
                case "rest" -> {
                    send(socket, "st: localhost\r\n\r\n");
                    var response = new StringBuilder();
                    while (!response.toString().endsWith("\r\n\r\nok\n")) response.append((char) input.readByte());
                    System.out.println("answered " + response.toString().toLowerCase().contains("close"));
                }
                default -> throw new IllegalArgumentException(line);
            }
        }
    }

    private static void send(SSLSocket socket, String text) throws IOException {
        socket.getOutputStream().write(text.getBytes(StandardCharsets.US_ASCII));
    }
}
