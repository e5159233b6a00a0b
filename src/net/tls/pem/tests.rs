use super::*;

const PKCS8: &str = include_str!("../../../../tests/keys/rsa2048.key");
const PKCS1: &str = include_str!("../../../../tests/keys/rsa2048-pkcs1.key");
const EC: &str = include_str!("../../../../tests/keys/v1.key");
const ENCRYPTED: &str = include_str!("../../../../tests/keys/encrypted.key");
const ENCRYPTED_SEC1: &str = include_str!("../../../../tests/keys/encrypted-sec1.key");
const OPENSSH: &str = include_str!("../../../../tests/keys/openssh.key");
const CERT: &str = include_str!("../../../../tests/keys/p521.pem");
const OTHER_CERT: &str = include_str!("../../../../tests/keys/rsa1024.pem");

fn key(text: impl AsRef<[u8]>) -> Result<Vec<u8>, Fault> {
    private_key(text.as_ref()).map(|key| key.secret_der().to_vec())
}

/// A key or a chain, for each way in which line endings are lost or changed.
fn variants(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let by = |end: &str| text.replace('\n', end).into_bytes();
    vec![
        ("as it is", by("\n")),
        ("without its last line end", text.trim_end().into()),
        ("CRLF", by("\r\n")),
        ("CR", by("\r")),
        ("none", by("")),
        ("spaces", by(" ")),
        ("literal", by("\\n")),
        ("literal CRLF", by("\\r\\n")),
        ("literal twice", by("\\\\n")),
        ("literal and real", by("\\n\n")),
        ("continued", by("\\\n")),
        ("indented", by("\n    ")),
        ("doubled", by("\n\n")),
        ("BOM", format!("\u{feff}{text}").into()),
        ("BOM and none", format!("\u{feff}{}", text.replace('\n', "")).into()),
        ("quoted", format!("\"{}\"\n", text.trim_end().replace('\n', "\\n")).into()),
        ("behind text", format!("Bag Attributes: <none>\nfriendlyName: x\n{text}").into()),
        ("before text", format!("{text}and more\n").into()),
        ("behind a comment", format!("# -----BEGIN PRIVATE KEY-----\n# no key\n{text}").into()),
    ]
}

#[test]
fn keys_are_read_whatever_their_line_ends() {
    for text in [PKCS8, PKCS1, EC] {
        let expected = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap().secret_der().to_vec();
        for (name, variant) in variants(text) {
            assert_eq!(key(&variant).as_ref(), Ok(&expected), "{name}");
        }
    }
}

#[test]
fn chains_are_read_whatever_their_line_ends() {
    let both = format!("{CERT}{OTHER_CERT}");
    let expected: Vec<_> =
        CertificateDer::pem_slice_iter(both.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(expected.len(), 2);
    for (name, variant) in variants(&both) {
        assert_eq!(certificates(&variant).as_ref(), Ok(&expected), "{name}");
    }
    // A key of the same file stands between the certificates.
    for (name, variant) in variants(&format!("{CERT}{PKCS8}{OTHER_CERT}")) {
        assert_eq!(certificates(&variant).as_ref(), Ok(&expected), "{name}");
        assert!(key(&variant).is_ok(), "{name}");
    }
    assert_eq!(certificates(format!("{}{}", CERT.trim_end(), PKCS8.trim_end()).as_bytes()).unwrap().len(), 1);
}

#[test]
fn the_first_plain_key_is_taken() {
    let expected = key(EC).unwrap();
    for before in
        ["", CERT, ENCRYPTED, OPENSSH, "-----BEGIN EC PARAMETERS-----\nBggq\n-----END EC PARAMETERS-----\n"]
    {
        assert_eq!(key(format!("{before}{EC}{PKCS8}")).as_ref(), Ok(&expected), "{before}");
    }
    // The text after it does not matter.
    assert_eq!(key(format!("{EC}-----BEGIN X")).as_ref(), Ok(&expected));
}

#[test]
fn each_fault_of_a_key_is_named() {
    let body = EC.lines().nth(1).unwrap();
    let one_line = EC.replace('\n', "");
    let utf16: Vec<u8> = [0xfeff].into_iter().chain(EC.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let der = key(EC).unwrap();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        ("".into(), "empty"),
        (" \r\n".into(), "empty"),
        (utf16, "UTF-16"),
        (der, "binary"),
        (b"text\0".to_vec(), "binary"),
        (body.into(), "no line begins with -----BEGIN"),
        (format!("KEY={one_line}").into(), "no line begins with -----BEGIN"),
        (one_line.replace(' ', "").into(), "line ends are missing"),
        (EC.replace("KEY-----\nM", "KEY----\nM").into(), "line is damaged"),
        (EC.replace("KEY-----\nM", "key-----\nM").into(), "line is damaged"),
        (EC.replace("KEY-----\nM", "\nM").into(), "line is damaged"),
        (EC.lines().take(2).collect::<Vec<_>>().join("\n").into(), "no END line"),
        (one_line.split("-----END").next().unwrap().into(), "no END line"),
        (format!("-----BEGIN PRIVATE KEY-----\n{body}\n{CERT}").into(), "no END line"),
        (EC.replace("END PRIVATE", "END EC PRIVATE").into(), "END line of something else"),
        (EC.replace(body, &format!("{}=A", &body[2..])).into(), "END is not base64"),
        (EC.replace(body, "!").into(), "END is not base64"),
        (EC.replace(body, &format!("{}\\x", &body[2..])).into(), "END is not base64"),
        (one_line.replace(body, "!").into(), "line ends are missing"),
        (EC.replace(body, &format!("Comment: {body}")).into(), "header lines"),
        (ENCRYPTED.into(), "is encrypted"),
        (ENCRYPTED_SEC1.into(), "is encrypted"),
        (ENCRYPTED_SEC1.replace('\n', "").into(), "is encrypted"),
        (format!("{CERT}{ENCRYPTED}").into(), "is encrypted"),
        (OPENSSH.into(), "OpenSSH"),
        (CERT.into(), "it has a certificate"),
        (CERT.replace("CERTIFICATE", "PUBLIC KEY").into(), "public key"),
        (CERT.replace("CERTIFICATE", "X509 CRL").into(), "not encrypted"),
    ];
    for (text, expected) in cases {
        let said = key(&text).unwrap_err().to_string();
        assert!(said.contains(expected), "{:?}: {said}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn each_fault_of_a_certificate_is_named() {
    let cases = [
        (String::new(), "empty"),
        ("broken".to_owned(), "no line begins with -----BEGIN"),
        (EC.to_owned(), "it has a private key"),
        (ENCRYPTED.to_owned(), "it has a private key"),
        (CERT.replace("CERTIFICATE", "CERTIFICATE REQUEST"), "request"),
        (CERT.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), "openssl x509"),
        (CERT.replace("CERTIFICATE", "PKCS7"), "pkcs7"),
        (CERT.replace("CERTIFICATE", "PUBLIC KEY"), "public key"),
        (CERT.replace("CERTIFICATE", "X509 CRL"), "BEGIN CERTIFICATE"),
        (format!("{CERT}{}", &OTHER_CERT[..100]), "no END line"),
        (CERT.replace("MII", "!"), "END is not base64"),
    ];
    for (text, expected) in cases {
        let said = certificates(text.as_bytes()).unwrap_err().to_string();
        assert!(said.contains(expected), "{text}: {said}");
    }
}

/// Nothing panics, at whatever byte a file is cut, or when one is changed; and no fault quotes it.
#[test]
fn whatever_is_damaged_is_refused_or_read() {
    for text in [EC, ENCRYPTED_SEC1] {
        let some = ["as it is", "none", "literal CRLF", "BOM and none"];
        for (_, variant) in variants(text).into_iter().filter(|(name, _)| some.contains(name)) {
            for at in 0..variant.len() {
                let mut changed = variant.clone();
                for byte in *b"\0\\-\n:\xff" {
                    changed[at] = byte;
                    for outcome in [key(&changed), key(&variant[..at]), key(&variant[at..])] {
                        let said = outcome.map_or_else(|fault| fault.to_string(), |_| String::new());
                        let mut body = text.lines().filter(|line| line.len() > 40 && !line.contains('-'));
                        assert!(body.all(|line| !said.contains(&line[..8])), "{said}");
                    }
                }
            }
        }
    }
}
