//! Properties of the record layer for any bytes, as `fuzz/` has them.

use super::super::buffers::Plaintext;
use super::*;

/// What another process sends: bytes that decode are bounded, and are those of the encoding.
pub(crate) fn carried(bytes: &[u8]) {
    if let Some(decoded) = Carried::decode(bytes) {
        assert!(*decoded.encode() == bytes, "by way of other bytes");
        assert!(Carried::fits(&decoded.client, &decoded.incoming, &decoded.plain), "it is too large to send");
    }
}

/// What came of records.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    plain: Vec<u8>,
    error: Option<String>,
    ended: bool,
}

/// What a client that reads nothing can make unsent: one answer to its key updates, one to a renegotiation, one alert.
const UNSENT_MAX: usize = 100;

/// Any records from a client that has the keys, and any bytes between them. The places where they are split do not matter.
///
/// The first byte chooses the suite. Then follow records: a type, a length, and the content; a type above 127 means bytes
/// that are sent as they are.
pub(crate) fn records(bytes: &[u8]) {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    let suites = rustls::crypto::ring::ALL_CIPHER_SUITES;
    let Some(suite) =
        suites.get(usize::from(first) % suites.len()).and_then(|suite| Suite::negotiated(*suite))
    else {
        return;
    };
    let material = |byte| Material::new(vec![byte; RecordKey::material_bytes(&suite)]);
    let Some(mut client) = RecordKey::new(suite, material(1), 7) else { return };
    let mut sent = Vec::new();
    while let Some(([kind, len], after)) = rest.split_first_chunk::<2>() {
        let (content, after) = after.split_at(usize::from(*len).min(after.len()));
        if *kind > 127 {
            sent.extend_from_slice(content);
        } else if client.seal(*kind, content, &mut sent).is_err() {
            return;
        }
        if let ([24, 0, 0, 1, _], &content_type::HANDSHAKE) = (content, kind) {
            client = client.next_generation().unwrap_or(client);
        }
        rest = after;
    }
    let take = |piece: usize| {
        let parts = Parts { suite, tx: (material(2), 3), rx: (material(1), 7) };
        let Some(mut records) = Records::new(parts) else { return Outcome::default() };
        let (mut outcome, mut incoming, mut outgoing) = (Outcome::default(), Vec::new(), Vec::new());
        for piece in sent.chunks(piece) {
            incoming.extend_from_slice(piece);
            let mut pass = Pass {
                incoming: &mut incoming,
                used: 0,
                plain: Plaintext::new(&mut [], &mut outcome.plain),
                outgoing: &mut outgoing,
                open: true,
                ended: false,
                without_data: 0,
            };
            let error = records.process(&mut pass, &Say::Nothing).err();
            let used = pass.used;
            outcome.ended |= pass.ended;
            assert!(records.held() <= HANDSHAKE_MAX + 4 + CONTENT_MAX, "it keeps {} bytes", records.held());
            assert!(outgoing.len() <= UNSENT_MAX, "{} bytes are unsent", outgoing.len());
            incoming.drain(..used);
            if let Some(error) = error {
                outcome.error = Some(error.to_string());
                break;
            }
        }
        outcome
    };
    let whole = take(sent.len().max(1));
    for piece in [1, 7] {
        assert_eq!(take(piece), whole, "in pieces of {piece}");
    }
}
