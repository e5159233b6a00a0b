//! Streams that outlive their process: what their code says when they leave, and how the next process continues them.
//!
//! **The opt-in is a name, and the last line of a handler.** `ResponseExt::resumable` names the stream, `Server::resume` says
//! how a stream of that name continues. The handler's loop needs no new case: it ends as at every drain, and then
//! `hand_over` gives the state away, if the stream moves, and does nothing if it does not.
//!
//! **A process hands over only what it could continue itself.** If the successor refuses a stream, or has died, the state
//! goes to this process's own function for that name. So nothing that the client has sent is lost.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use crate::base::sync::lock;
use crate::net::conn_info::ConnInfo;
use crate::net::transfer::{Continuation, StreamKind};
use crate::web::body::{DetachedWriter, UpgradeHandler};

/// The most bytes of a state.
const STATE_BYTES: usize = 64 << 10;

/// The state of a stream, which its handler gives to the next process by `hand_over`: bytes, or text, at most 64 KiB.
///
/// ```
/// use heirloom::resume::StreamState;
/// let state = StreamState::from(7.to_string());
/// assert_eq!(state.parse::<u32>().unwrap(), 7);
/// ```
///
/// The next process may be another version of the program: a format that may change should carry its version.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StreamState(Vec<u8>);

impl StreamState {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The state as text.
    ///
    /// # Errors
    /// `InvalidData` if it is not UTF-8.
    pub fn as_str(&self) -> io::Result<&str> {
        std::str::from_utf8(&self.0).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))
    }

    /// Parses the text of the state.
    ///
    /// # Errors
    /// `InvalidData` if it can't be parsed.
    pub fn parse<T: FromStr>(&self) -> io::Result<T> {
        let invalid = || io::Error::new(ErrorKind::InvalidData, "the state of a stream can't be parsed");
        self.as_str()?.parse().map_err(|_| invalid())
    }

    /// The JSON text of `value`. A feature: `json`.
    ///
    /// # Errors
    /// `InvalidData` if `value` can't be serialized.
    #[cfg(feature = "json")]
    pub fn json(value: &impl serde::Serialize) -> io::Result<StreamState> {
        Ok(StreamState(serde_json::to_vec(value)?))
    }

    /// Reads the JSON text of a value. A feature: `json`.
    ///
    /// # Errors
    /// `InvalidData` if it is none.
    #[cfg(feature = "json")]
    pub fn parse_json<T: serde::de::DeserializeOwned>(&self) -> io::Result<T> {
        Ok(serde_json::from_slice(&self.0)?)
    }

    /// # Errors
    /// `InvalidInput` if it is longer than a state may be.
    pub(crate) fn checked(self) -> io::Result<Vec<u8>> {
        if self.0.len() > STATE_BYTES {
            let text = format!("the state of a stream has {} bytes, at most {STATE_BYTES}", self.0.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(self.0)
    }
}

impl From<Vec<u8>> for StreamState {
    fn from(bytes: Vec<u8>) -> StreamState {
        StreamState(bytes)
    }
}

impl From<String> for StreamState {
    fn from(text: String) -> StreamState {
        StreamState(text.into_bytes())
    }
}

impl From<&str> for StreamState {
    fn from(text: &str) -> StreamState {
        StreamState(text.as_bytes().to_vec())
    }
}

impl From<()> for StreamState {
    fn from((): ()) -> StreamState {
        StreamState::default()
    }
}

/// Omits the bytes, which may be secret.
impl fmt::Debug for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamState({} bytes)", self.0.len())
    }
}

/// How a stream of another process continues here: for [`Server::resume`](crate::Server::resume). It is made by
/// `websocket::resumed`, [`sse::resumed`](crate::sse::resumed) or
/// [`upgrade::resumed`](crate::upgrade::resumed).
#[derive(Clone)]
pub struct Resume {
    kind: StreamKind,
    make: Arc<MakeTask>,
}

/// Makes the work of a thread of the details of a stream and its state.
type MakeTask = dyn Fn(&str, StreamState) -> ResumedTask + Send + Sync;

/// The work of the thread that continues a stream.
pub(crate) enum ResumedTask {
    Stream(DetachedWriter),
    Upgrade(UpgradeHandler),
}

impl Resume {
    pub(crate) fn new(
        kind: StreamKind,
        make: impl Fn(&str, StreamState) -> ResumedTask + Send + Sync + 'static,
    ) -> Resume {
        Resume { kind, make: Arc::new(make) }
    }

    pub(crate) fn kind(&self) -> StreamKind {
        self.kind
    }

    pub(crate) fn task(&self, continuation: Continuation) -> ResumedTask {
        (self.make)(&continuation.details, StreamState(continuation.state))
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resume").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The name of a stream, among the extensions of its response.
#[derive(Clone)]
pub(crate) struct ResumeName(pub(crate) Arc<str>);

/// A stream's way out of its process.
#[derive(Clone)]
pub(crate) struct Passage {
    /// None for a stream that ends with its process.
    exit: Option<Exit>,
    conn_info: Arc<ConnInfo>,
    left: Arc<Mutex<Option<Leaving>>>,
}

/// By which name a stream leaves, and how this process continues streams of that name. Only a stream of the same kind leaves:
/// otherwise nobody could continue one that comes back.
#[derive(Clone)]
pub(crate) struct Exit {
    pub(crate) name: Arc<str>,
    pub(crate) resume: Resume,
}

/// A stream that leaves.
pub(crate) struct Leaving {
    /// How this process continues it, if it comes back.
    pub(crate) resume: Resume,
    pub(crate) continuation: Continuation,
    /// What was read of the client and not used.
    pub(crate) unread: Vec<u8>,
}

impl Passage {
    pub(crate) fn new(exit: Option<Exit>, conn_info: Arc<ConnInfo>) -> Passage {
        Passage { exit, conn_info, left: Arc::default() }
    }

    /// The way out for a stream of this kind.
    fn exit(&self, kind: StreamKind) -> Option<&Exit> {
        self.exit.as_ref().filter(|exit| exit.resume.kind() == kind)
    }

    pub(crate) fn conn_info(&self) -> &Arc<ConnInfo> {
        &self.conn_info
    }

    /// Whether a stream of this kind may leave one day.
    #[cfg_attr(not(feature = "websocket"), expect(dead_code, reason = "for websockets"))]
    pub(crate) fn may_open(&self, kind: StreamKind) -> bool {
        self.exit(kind).is_some()
    }

    /// Whether a stream of this kind may leave now.
    pub(crate) fn is_open(&self, kind: StreamKind) -> bool {
        self.exit(kind).is_some_and(|exit| self.conn_info.drain.moves(&exit.name))
    }

    /// The stream leaves when its thread is done. The thread reads and writes nothing more.
    pub(crate) fn leave(&self, kind: StreamKind, details: String, state: Vec<u8>, unread: Vec<u8>) {
        let Some(Exit { name, resume }) = self.exit(kind) else { return };
        let continuation = Continuation { name: name.to_string(), kind, details, state };
        *lock(&self.left) = Some(Leaving { resume: resume.clone(), continuation, unread });
    }

    pub(crate) fn leaves(&self) -> bool {
        lock(&self.left).is_some()
    }

    pub(crate) fn take(&self) -> Option<Leaving> {
        lock(&self.left).take()
    }
}

/// What the code of a response writes to, on a thread of its own.
pub(crate) trait DetachedOut: Write {
    /// None where the bytes are encoded on their way: the encoder's state does not travel.
    fn passage(&self) -> Option<&Passage> {
        None
    }
}

#[cfg(test)]
impl DetachedOut for Vec<u8> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_bounded_and_not_shown() {
        let state = StreamState::from(vec![b'7'; STATE_BYTES]);
        assert_eq!(format!("{state:?}"), "StreamState(65536 bytes)");
        assert_eq!(state.checked().unwrap().len(), STATE_BYTES);
        let e = StreamState::from(vec![0; STATE_BYTES + 1]).checked().unwrap_err();
        assert_eq!(
            (e.kind(), &*e.to_string()),
            (ErrorKind::InvalidInput, "the state of a stream has 65537 bytes, at most 65536")
        );
        assert_eq!(StreamState::from("x").parse::<u8>().unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(StreamState::from(vec![0xff]).as_str().unwrap_err().kind(), ErrorKind::InvalidData);
        assert!(StreamState::from(()).as_bytes().is_empty());
    }

    /// Nobody could continue it, if the successor refuses it: it ends as one without a name.
    #[test]
    fn a_stream_of_another_kind_than_its_name_says_stays() {
        use crate::base::phase::{Phase, PhaseWatch};
        let watch = PhaseWatch::new();
        watch.set_continued(vec!["a".to_owned()]);
        watch.set(Phase::HandedOver);
        let conn_info = Arc::new(ConnInfo::new(None, watch, 1));
        let exit = Exit { name: "a".into(), resume: crate::sse::resumed(|_, _| Ok(())) };
        let passage = Passage::new(Some(exit), conn_info);
        for (kind, moves) in
            [(StreamKind::Events, true), (StreamKind::WebSocket, false), (StreamKind::Upgrade, false)]
        {
            assert_eq!(passage.is_open(kind), moves, "{kind:?}");
            passage.leave(kind, String::new(), vec![7], Vec::new());
            assert_eq!(passage.take().map(|leaving| leaving.continuation.kind), moves.then_some(kind));
        }
    }

    #[cfg(feature = "json")]
    #[test]
    fn a_state_may_be_a_value() {
        let state = StreamState::json(&(7, "seven")).unwrap();
        assert_eq!(state.parse_json::<(u8, String)>().unwrap(), (7, "seven".to_owned()));
        assert_eq!(StreamState::from("x").parse_json::<u8>().unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
