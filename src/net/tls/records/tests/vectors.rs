//! Records that others have made.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn key(suite: CipherSuite, material: &str, seq: u64) -> RecordKey {
    RecordKey::new(Suite::of(suite).unwrap(), Zeroizing::new(hex(material)), seq).unwrap()
}

/// The record is made of the content, and the content of the record.
#[track_caller]
fn expect(key: impl Fn() -> RecordKey, content_type: u8, content: &[u8], record: &str) {
    let record = hex(record);
    let mut sealed = Vec::new();
    key().seal(content_type, content, &mut sealed).unwrap();
    assert_eq!(sealed, record);
    let (mut rx, mut bytes) = (key(), record);
    let Ok(Some((header, payload))) = whole_record(rx.suite().version, &mut bytes) else { panic!() };
    assert!(open(&mut rx, header, payload).is_ok_and(|opened| opened == (content_type, content)));
    assert_eq!(rx.seq(), key().seq() + 1);
}

const DATA: u8 = content_type::APPLICATION_DATA;
const CLOSE: &[u8] = &[1, 0];

/// RFC 8448 §3: the secrets, and all records after the handshake but the server's ticket, which had number 0.
#[test]
fn aes_128_as_in_rfc_8448() {
    let suite = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let client = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
    let server = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
    let data: Vec<u8> = (0..50).collect();
    let of_client = "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea
        42 f9 14 aa 66 bc ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b
        62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4";
    let of_server = "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc
        32 25 d0 5f 82 aa 1b 36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8
        fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d";
    expect(|| key(suite, client, 0), DATA, &data, of_client);
    expect(|| key(suite, server, 1), DATA, &data, of_server);
    let (client_ends, server_ends) = (
        "17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3",
        "17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9",
    );
    expect(|| key(suite, client, 1), content_type::ALERT, CLOSE, client_ends);
    expect(|| key(suite, server, 2), content_type::ALERT, CLOSE, server_ends);
}

/// The client's first record of <https://tls13.xargs.org>.
#[test]
fn aes_256_as_in_the_illustrated_tls_connection() {
    let secret = "9e47af27cb60d818a9ea7d233cb5ed4cc525fcd74614fb24b0ee59acb8e5aa7f
        f8d88b89792114208fec291a6fa96bad";
    let record = "17 03 03 00 15 82 81 39 cb 7b 73 aa ab f5 b8 2f bf 9a 29 61 bc de 10 03 8a 32";
    expect(|| key(CipherSuite::TLS13_AES_256_GCM_SHA384, secret, 0), DATA, b"ping", record);
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// No RFC has a record of these suites: these are made by the module `cryptography` of Python, by the formulas of RFC 8446
/// §5.3 and §7.3, RFC 7905 §2, and RFC 5288 §3 with the nonce of `rustls`.
#[test]
fn other_suites_as_in_python() {
    let chacha = CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    let secret = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
    let first = "1703030023a969821cc9d05d80f9b77a2dd0532b19aaddf81cbd3d899632dd6d555856863c4d2eaa";
    expect(|| key(chacha, secret, 0), DATA, REQUEST, first);
    let later = "170303002377e31889e882d467a52c21d42621d09ec19d9128a77e4a9a45ea060ceece510317a3a4";
    expect(|| key(chacha, secret, 0x102), DATA, REQUEST, later);
    let next = "1703030016f82ab152c57ce858d1064ee678d028da5efeeec369a4";
    expect(|| key(chacha, secret, 7).next_generation().unwrap(), DATA, b"again", next);

    let iv = "070000004041424344454647";
    let (aes_128, rest) = ("808182838485868788898a8b8c8d8e8f", "909192939495969798999a9b9c9d9e9f");
    let record = "170303002229cd56627d9bbe8bb54d1665140ba378c07507d77a2f994d855d4ea08c28fd57fe82";
    let suite = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    expect(|| key(suite, &[aes_128, rest, iv].concat(), 5), DATA, REQUEST, record);
    let record =
        "170303002a4041424344454642543287843fad8e23bb153ecd7f09820f2fc7b2f619421669edc816915306d20dd8b5";
    let suite = CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
    expect(|| key(suite, &[aes_128, rest, iv].concat(), 5), DATA, REQUEST, record);
    let record = "150303001a4041424344454642db596f561e43e448a08286189f9c39da860d";
    let suite = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    expect(|| key(suite, &[aes_128, iv].concat(), 5), content_type::ALERT, CLOSE, record);
}

/// A record of another implementation, whose explicit nonce is not the sequence number (RFC 5288 §3 leaves it to the sender).
#[test]
fn a_nonce_of_tls_1_2_is_what_its_sender_says() {
    let suite = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    let mut rx = key(suite, "152300c2dc44c8f695d4fb1471791659 b56bf932 ffffffffffffffff", 1);
    let mut record = hex("17 0303 003b 0000000000000000
        ed3ca96c8bd2fbb376c2dc417f3ec249e8ab550dab1c421293f0e642a0c152b43a546a8b49b6128ee6e23454b7e580423ba985");
    let Ok(Some((header, payload))) = whole_record(Version::Tls12, &mut record) else { panic!() };
    let opened = open(&mut rx, header, payload);
    assert!(opened.is_ok_and(|opened| opened == (DATA, b"GET / HTTP/1.1\r\nHost: undefined\r\n\r\n")));
}
