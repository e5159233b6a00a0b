//! One pass of `rustls` over the bytes of a session.

use rustls::Error;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use crate::net::tls::buffers::{Pass, Say, append, whole_records};

/// The content of one record at most.
const RECORD_BYTES: usize = 16 << 10;
/// How much longer a record is than its content, with a margin: a first guess.
pub(super) const OVERHEAD: usize = 64;

/// Decrypts the whole records that have arrived. Then encrypts what `say` holds, if the handshake is done.
pub(super) fn process(
    connection: &mut UnbufferedServerConnection,
    pass: &mut Pass<'_>,
    say: &Say<'_>,
) -> Result<(), Error> {
    let (came, mut with_data) = (whole_records(pass.incoming), 0);
    let outcome = loop {
        let UnbufferedStatus { mut discard, state } =
            connection.process_tls_records(pass.incoming.get_mut(pass.used..).unwrap_or_default());
        let done = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    discard = discard.saturating_add(record.discard);
                    with_data = 1_usize.saturating_add(with_data);
                    pass.plain.take(record.payload);
                }
                None
            }
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(pass.outgoing, data);
                None
            }
            // The data is in `outgoing`, before anything that is written later.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                None
            }
            Ok(ConnectionState::PeerClosed) => {
                pass.ended = true;
                None
            }
            Ok(ConnectionState::WriteTraffic(traffic)) => {
                pass.open = true;
                Some(encrypt(pass.outgoing, traffic, say))
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Some(match say {
                Say::Nothing => Ok(()),
                _ => Err(Error::HandshakeNotComplete),
            }),
            Ok(_) => Some(Err(Error::General("early data, which was not offered".into()))),
            Err(e) => Some(Err(e)),
        };
        pass.used = pass.used.saturating_add(discard);
        if let Some(outcome) = done {
            break outcome;
        }
    };
    let left = whole_records(pass.incoming.get(pass.used..).unwrap_or_default());
    pass.without_data = came.saturating_sub(left).saturating_sub(with_data);
    if outcome.is_err() {
        // Only the alert is written. The bytes after the malformed ones are not read.
        encode_pending(connection, pass);
    }
    outcome
}

/// Writes the answer to a KeyUpdate, which `rustls` would keep for the next data, and which is lost if keys are extracted
/// before. There is no function for that; but an attempt to encrypt into no room queues the answer before it fails, and
/// encrypts nothing. Returns whether nothing is left to be sent.
pub(super) fn settle(connection: &mut UnbufferedServerConnection, pass: &mut Pass<'_>) -> bool {
    loop {
        let rest = pass.incoming.get_mut(pass.used..).unwrap_or_default();
        match connection.process_tls_records(rest).state {
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::EncodeTlsData(data)) => encode(pass.outgoing, data),
            Ok(ConnectionState::WriteTraffic(mut traffic)) => match traffic.encrypt(&[0], &mut []) {
                Err(EncryptError::InsufficientSize(_)) => break,
                _ => return false,
            },
            _ => return false,
        }
    }
    encode_pending(connection, pass);
    !connection.wants_write()
}

fn encode_pending(connection: &mut UnbufferedServerConnection, pass: &mut Pass<'_>) {
    while connection.wants_write() {
        let rest = pass.incoming.get_mut(pass.used..).unwrap_or_default();
        match connection.process_tls_records(rest).state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(pass.outgoing, data),
            _ => break,
        }
    }
}

/// Appends data that `rustls` itself sends.
fn encode(outgoing: &mut Vec<u8>, mut data: EncodeTlsData<'_, ServerConnectionData>) {
    // The error is the only way to learn the size.
    let mut room = 0;
    while let Err(EncodeError::InsufficientSize(e)) = append(outgoing, room, |room| data.encode(room)) {
        room = e.required_size;
    }
}

fn encrypt(
    outgoing: &mut Vec<u8>,
    mut traffic: WriteTraffic<'_, ServerConnectionData>,
    say: &Say<'_>,
) -> Result<(), Error> {
    let mut room = match say {
        Say::Nothing => return Ok(()),
        Say::Data(plain) => plain
            .len()
            .saturating_add((plain.len() / RECORD_BYTES).saturating_add(1).saturating_mul(OVERHEAD)),
        Say::End => OVERHEAD,
    };
    loop {
        let encrypted = append(outgoing, room, |room| match say {
            Say::Data(plain) => traffic.encrypt(plain, room),
            _ => traffic.queue_close_notify(room),
        });
        match encrypted {
            Err(EncryptError::InsufficientSize(e)) if e.required_size > room => room = e.required_size,
            Err(e) => return Err(Error::General(e.to_string())),
            Ok(()) => return Ok(()),
        }
    }
}
