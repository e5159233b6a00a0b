//! The record layer for a connection whose handshake `rustls` has done, in this process or in another one: from keys and
//! sequence numbers alone. So a TLS connection can move.
//!
//! `rustls` can export the state of a connection but not import it, and its cipher traits accept no AES-128 key from
//! outside. So the records are made here, by `ring`: TLS 1.2 and 1.3 with the suites of `rustls`. An answer differs from
//! that of `rustls` only where the RFC asks for an alert and `rustls` sends none, and in that a requested KeyUpdate is
//! answered as soon as nothing else is unsent: so a client that requests many and reads nothing holds one answer.
//!
//! A key of AES-GCM may encrypt 2^24 records. After half of them, TLS 1.3 changes it by a KeyUpdate before the next data
//! (RFC 8446 §5.5), and the connection lasts as long as it likes; TLS 1.2 can't, and the close is announced
//! ([`Records::is_worn`]). For the other direction no KeyUpdate is requested, and no number of records is refused, as in
//! `rustls`: that bound is on the sender, and what a client has encrypted too often is not made secret again by a refusal.

mod carried;
#[cfg(any(test, fuzzing))]
pub(crate) mod checks;
mod extract;
mod key;
mod suite;

use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};

use super::buffers::{Pass, Say};
pub(crate) use carried::{Carried, ClientIdentity};
pub(super) use extract::{GENERATIONS_MAX, TrafficSecrets, extract};
use key::{CONTENT_MAX, HEADER, Material, RecordKey, content_type};
use suite::{Suite, Version};

/// As in `rustls` and BoringSSL: what a client may send in a row without sending data.
const EMPTY_RECORDS_MAX: u8 = 32;
const KEY_UPDATES_MAX: u8 = 32;
const WARNINGS_MAX: u8 = 4;
/// The longest handshake message, of which only a refused ClientHello of TLS 1.2 may be long.
const HANDSHAKE_MAX: usize = 0xffff;
/// Records that stay for alerts when a key may encrypt no more data.
const RESERVED_RECORDS: u64 = 16;

/// `KeyUpdate(update_not_requested)`.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Both directions of a connection. It has no `Clone` and no `Debug`, and [`Records::into_parts`] consumes it: so each key
/// has one owner, and no nonce is used twice.
pub(super) struct Records {
    tx: RecordKey,
    rx: RecordKey,
    /// The start of a handshake message whose rest is in the next record.
    handshake: Vec<u8>,
    counts: Counts,
    /// The client wants new keys on our side.
    owes_update: bool,
    /// The client has said close_notify.
    ended: bool,
    /// close_notify or a fatal alert was sent: nothing follows it.
    closed: bool,
    /// How many records a key may encrypt: that of the suite, except in tests.
    records_max: u64,
}

/// What a client has sent that is allowed a few times only.
#[derive(Default)]
struct Counts {
    empty_records: u8,
    key_updates: u8,
    warnings: u8,
    renegotiations: u8,
}

/// What continues a connection: the keys of both directions, each with its next sequence number. It has no `Clone` and no
/// `Debug`.
pub(super) struct Parts {
    suite: Suite,
    tx: (Material, u64),
    rx: (Material, u64),
}

/// Why a connection ends, and the alert that its client gets.
struct Fault {
    alert: Option<AlertDescription>,
    error: Error,
}

impl Fault {
    fn unexpected(error: impl Into<Error>) -> Fault {
        Fault { alert: Some(AlertDescription::UnexpectedMessage), error: error.into() }
    }

    fn undecodable(error: InvalidMessage) -> Fault {
        Fault { alert: Some(AlertDescription::DecodeError), error: error.into() }
    }

    fn oversized() -> Fault {
        Fault { alert: Some(AlertDescription::RecordOverflow), error: Error::PeerSentOversizedRecord }
    }
}

impl From<key::Failed> for Fault {
    fn from(_: key::Failed) -> Fault {
        Fault { alert: Some(AlertDescription::BadRecordMac), error: Error::DecryptError }
    }
}

impl Records {
    /// None if the keys don't fit the suite, or may encrypt nothing more.
    pub(super) fn new(parts: Parts) -> Option<Records> {
        let Parts { suite, tx, rx } = parts;
        let records = Records {
            tx: RecordKey::new(suite, tx.0, tx.1)?,
            rx: RecordKey::new(suite, rx.0, rx.1)?,
            handshake: Vec::new(),
            counts: Counts::default(),
            owes_update: false,
            ended: false,
            closed: false,
            records_max: suite.most_records(),
        };
        (records.tx.seq() < records.records_max).then_some(records)
    }

    /// The keys, for the one who continues.
    pub(super) fn into_parts(self) -> Parts {
        Parts { suite: *self.tx.suite(), tx: self.tx.into_material(), rx: self.rx.into_material() }
    }

    pub(super) fn suite(&self) -> &Suite {
        self.tx.suite()
    }

    /// Whether nothing is under way but what [`Records::into_parts`] gives.
    pub(super) fn is_at_rest(&self) -> bool {
        self.handshake.is_empty() && !self.owes_update && !self.ended && !self.closed
    }

    /// Whether the connection should end soon: its key has encrypted half the records that it may, and can't be changed.
    pub(super) fn is_worn(&self) -> bool {
        self.suite().version == Version::Tls12 && self.is_key_worn()
    }

    fn is_key_worn(&self) -> bool {
        self.tx.seq() >= self.records_max / 2
    }

    #[cfg(test)]
    pub(super) fn set_records_max(&mut self, records_max: u64) {
        self.records_max = records_max;
    }

    /// How many bytes it keeps.
    pub(super) fn held(&self) -> usize {
        self.handshake.len()
    }

    /// Decrypts the whole records that have arrived, and then encrypts what is to be said.
    pub(super) fn process(&mut self, pass: &mut Pass<'_>, say: &Say<'_>) -> Result<(), Error> {
        if let Err(Fault { alert, error }) = self.take_records(pass) {
            if let Some(alert) = alert.filter(|_| !self.closed) {
                let _ = self.tx.seal(content_type::ALERT, &[FATAL, alert.into()], pass.outgoing);
            }
            self.closed = true;
            return Err(error);
        }
        self.answer_key_update(pass.outgoing)?;
        match say {
            Say::Nothing => Ok(()),
            Say::Data(plain) => {
                plain.chunks(CONTENT_MAX).try_for_each(|content| self.say_data(content, pass.outgoing))
            }
            Say::End if self.closed => Ok(()),
            Say::End => {
                self.closed = true;
                let close = [WARNING, AlertDescription::CloseNotify.into()];
                self.tx.seal(content_type::ALERT, &close, pass.outgoing).map_err(no_record)
            }
        }
    }

    fn take_records(&mut self, pass: &mut Pass<'_>) -> Result<(), Fault> {
        while !self.ended {
            let rest = pass.incoming.get_mut(pass.used..).unwrap_or_default();
            let Some((header, payload)) = whole_record(self.suite().version, rest)? else { break };
            let bytes = HEADER.saturating_add(payload.len());
            let (content_type, content) = open(&mut self.rx, header, payload)?;
            pass.used = pass.used.saturating_add(bytes);
            if !self.handshake.is_empty() && content_type != content_type::HANDSHAKE {
                return Err(Fault::unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
            }
            count(&mut self.counts.empty_records, content.is_empty(), EMPTY_RECORDS_MAX)
                .ok_or_else(|| Fault::unexpected(PeerMisbehaved::TooManyEmptyFragments))?;
            match content_type {
                content_type::APPLICATION_DATA => {
                    self.counts.key_updates = 0;
                    pass.plain.take(content);
                }
                content_type::ALERT => self.take_alert(content)?,
                content_type::HANDSHAKE => self.take_handshake(content, pass.outgoing)?,
                other => return Err(Fault::unexpected(inappropriate(other))),
            }
        }
        pass.ended = self.ended;
        Ok(())
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<(), Fault> {
        let (level, description) = match *content {
            [level, description] => (level, AlertDescription::from(description)),
            [] | [_] => return Err(Fault::undecodable(InvalidMessage::MissingData("AlertDescription"))),
            _ => return Err(Fault::undecodable(InvalidMessage::TrailingData("AlertMessagePayload"))),
        };
        let error = Error::AlertReceived(description);
        match level {
            WARNING | FATAL if description == AlertDescription::CloseNotify => self.ended = true,
            WARNING => {
                let many = PeerMisbehaved::TooManyWarningAlertsReceived;
                count(&mut self.counts.warnings, true, WARNINGS_MAX).ok_or(Fault::unexpected(many))?;
                // TLS 1.3 has no other warning (RFC 8446 §6).
                if self.suite().version == Version::Tls13 && description != AlertDescription::UserCanceled {
                    return Err(Fault { alert: Some(AlertDescription::DecodeError), error });
                }
            }
            FATAL => return Err(Fault { alert: None, error }),
            _ => return Err(Fault { alert: Some(AlertDescription::IllegalParameter), error }),
        }
        Ok(())
    }

    fn take_handshake(&mut self, content: &[u8], outgoing: &mut Vec<u8>) -> Result<(), Fault> {
        if content.is_empty() {
            return Err(Fault::unexpected(InvalidMessage::InvalidEmptyPayload));
        }
        self.handshake.extend_from_slice(content);
        let version = self.suite().version;
        while let Some(message) = whole_message(version, &self.handshake)? {
            let bytes = message.len();
            let last = message.last().copied();
            if bytes >= self.handshake.len() {
                self.handshake = Vec::new();
            } else {
                self.handshake.drain(..bytes);
            }
            match version {
                Version::Tls12 => self.refuse_renegotiation(outgoing)?,
                Version::Tls13 => self.take_key_update(last)?,
            }
        }
        Ok(())
    }

    /// RFC 5246 §7.2.2: a client may ask for it, and is refused by a warning; here once.
    fn refuse_renegotiation(&mut self, outgoing: &mut Vec<u8>) -> Result<(), Fault> {
        count(&mut self.counts.renegotiations, true, 1)
            .ok_or_else(|| Fault::unexpected(PeerMisbehaved::TooManyRenegotiationRequests))?;
        if !self.closed {
            let refusal = [WARNING, AlertDescription::NoRenegotiation.into()];
            self.tx.seal(content_type::ALERT, &refusal, outgoing)?;
        }
        Ok(())
    }

    /// RFC 8446 §4.6.3. Several requests in one pass get one answer.
    fn take_key_update(&mut self, requested: Option<u8>) -> Result<(), Fault> {
        if !self.handshake.is_empty() {
            return Err(Fault::unexpected(PeerMisbehaved::KeyEpochWithPendingFragment));
        }
        count(&mut self.counts.key_updates, true, KEY_UPDATES_MAX)
            .ok_or_else(|| Fault::unexpected(PeerMisbehaved::TooManyKeyUpdateRequests))?;
        match requested {
            Some(0) => {}
            Some(1) => self.owes_update = true,
            _ => {
                let alert = Some(AlertDescription::IllegalParameter);
                return Err(Fault { alert, error: InvalidMessage::InvalidKeyUpdate.into() });
            }
        }
        self.rx = self.rx.next_generation().ok_or(key::Failed)?;
        Ok(())
    }

    /// Appends the answer that is owed to a request for a KeyUpdate, if nothing else is unsent. One answers all requests
    /// before it (RFC 8446 §4.6.3).
    pub(super) fn answer_key_update(&mut self, outgoing: &mut Vec<u8>) -> Result<(), Error> {
        if self.owes_update && !self.closed && outgoing.is_empty() {
            self.owes_update = false;
            self.update_key(outgoing)?;
        }
        Ok(())
    }

    /// The message is encrypted by the old key, and all that follows by the new one.
    fn update_key(&mut self, outgoing: &mut Vec<u8>) -> Result<(), Error> {
        let next = self.tx.next_generation().ok_or(Error::EncryptError)?;
        self.tx.seal(content_type::HANDSHAKE, &KEY_UPDATE, outgoing).map_err(no_record)?;
        self.tx = next;
        Ok(())
    }

    fn say_data(&mut self, content: &[u8], outgoing: &mut Vec<u8>) -> Result<(), Error> {
        if self.closed {
            return Err(Error::EncryptError);
        }
        if self.is_key_worn() && self.suite().version == Version::Tls13 {
            self.update_key(outgoing)?;
        }
        if self.records_max.saturating_sub(self.tx.seq()) <= RESERVED_RECORDS {
            return Err(Error::EncryptError);
        }
        self.tx.seal(content_type::APPLICATION_DATA, content, outgoing).map_err(no_record)
    }
}

fn no_record(_: key::Failed) -> Error {
    Error::EncryptError
}

/// Counts what may happen so many times in a row; None when it happens once more.
fn count(counted: &mut u8, happened: bool, most: u8) -> Option<()> {
    *counted = if happened { counted.checked_add(1)? } else { 0 };
    (*counted <= most).then_some(())
}

fn inappropriate(got: u8) -> Error {
    let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake];
    Error::InappropriateMessage { expect_types, got_type: ContentType::from(got) }
}

/// Its header and its payload.
type WholeRecord<'a> = ([u8; HEADER], &'a mut [u8]);

/// The record that comes first, if it is there as a whole.
fn whole_record(version: Version, bytes: &mut [u8]) -> Result<Option<WholeRecord<'_>>, Fault> {
    let Some((header, rest)) = bytes.split_first_chunk_mut::<HEADER>() else { return Ok(None) };
    let header = *header;
    let [content_type, major, _, high, low] = header;
    if !(content_type::CHANGE_CIPHER_SPEC..=content_type::HEARTBEAT).contains(&content_type) {
        return Err(Fault::unexpected(InvalidMessage::InvalidContentType));
    }
    if major != 3 {
        return Err(Fault::undecodable(InvalidMessage::UnknownProtocolVersion));
    }
    // After the handshake there is none, and each record of TLS 1.3 looks like data.
    if content_type == content_type::CHANGE_CIPHER_SPEC
        || (version == Version::Tls13 && content_type != content_type::APPLICATION_DATA)
    {
        return Err(Fault::unexpected(inappropriate(content_type)));
    }
    let expansion = match version {
        Version::Tls12 => 2_048,
        Version::Tls13 => 256,
    };
    let bytes = usize::from(u16::from_be_bytes([high, low]));
    if bytes > CONTENT_MAX.saturating_add(expansion) {
        return Err(Fault::oversized());
    }
    Ok(rest.get_mut(..bytes).map(|payload| (header, payload)))
}

/// The type and the content of a record.
fn open<'a>(
    rx: &mut RecordKey,
    header: [u8; HEADER],
    payload: &'a mut [u8],
) -> Result<(u8, &'a [u8]), Fault> {
    let version = rx.suite().version;
    let plain: &[u8] = rx.open(header, payload)?;
    let [outer, ..] = header;
    let (content_type, content) = match version {
        Version::Tls12 => (outer, plain),
        Version::Tls13 if plain.len() > CONTENT_MAX.saturating_add(1) => return Err(Fault::oversized()),
        // The type is followed by zeros.
        Version::Tls13 => {
            let end = plain.iter().rposition(|byte| *byte != 0);
            let end = end.ok_or_else(|| Fault::unexpected(PeerMisbehaved::IllegalTlsInnerPlaintext))?;
            let (content, padded) = plain.split_at(end);
            (padded.first().copied().unwrap_or_default(), content)
        }
    };
    match content_type {
        _ if content.len() > CONTENT_MAX => Err(Fault::oversized()),
        content_type::CHANGE_CIPHER_SPEC => {
            Err(Fault::unexpected(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec))
        }
        _ => Ok((content_type, content)),
    }
}

/// The handshake message that comes first, if it is there as a whole: a KeyUpdate in TLS 1.3, a ClientHello in TLS 1.2. All
/// others are refused at their first byte.
fn whole_message(version: Version, bytes: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let got_type = HandshakeType::from(first);
    match version {
        Version::Tls13 if got_type != HandshakeType::KeyUpdate => {
            let expect_types = vec![HandshakeType::KeyUpdate];
            return Err(Fault::unexpected(Error::InappropriateHandshakeMessage { expect_types, got_type }));
        }
        Version::Tls12 if got_type != HandshakeType::ClientHello => {
            let expect_types = vec![ContentType::ApplicationData];
            let got_type = ContentType::Handshake;
            return Err(Fault::unexpected(Error::InappropriateMessage { expect_types, got_type }));
        }
        _ => {}
    }
    let Some((&[_, a, b, c], body)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
    if len > HANDSHAKE_MAX || (version == Version::Tls13 && len != 1) {
        return Err(Fault::undecodable(InvalidMessage::HandshakePayloadTooLarge));
    }
    Ok(if body.len() < len { None } else { bytes.get(..len.saturating_add(4)) })
}

#[cfg(test)]
mod tests;
