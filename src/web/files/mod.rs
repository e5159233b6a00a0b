//! Files and directories as responses.

mod made;
mod open;
mod range;
mod version;

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE,
    RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, StatusCode};

use crate::base::budget::Share;
use crate::base::error::lacks_descriptor;
use crate::base::log::{error, warn};
use crate::base::percent::decoded_text;
use crate::web::coding::{Whole, accepts_gzip, vary};
use crate::web::conditional::Validators;
use crate::web::fields::ascii;
use crate::web::handler::{Handler, Routes, Seal};
use crate::web::request::RequestExt;
use crate::web::response::{IntoResponse, ResponseExt, busy, plain};
use crate::{Body, Request, Response};
use open::{Links, Opened};
use range::Wanted;
use version::Version;

/// A handler that serves the files of a directory and its subdirectories.
///
/// The route's parameter `path` names the file; without one the whole path does, as for a fallback. A directory responds with
/// its `index.html`; if its path does not end with `/`, with a redirect to the path that does, by a relative reference, which
/// works behind a proxy that strips a prefix. Directories are never listed. Types are guessed from the extension. Conditional
/// requests and a range are honoured (RFC 9110 §13, §14); several ranges get the whole file.
///
/// The entity tag contains inode and change time, so that a replaced file has another one even if its length and modification
/// time are the same. `Last-Modified` is the later of modification time and change time; a modification time of 0 or 1 s,
/// as reproducible builds set it, is not sent. The tag is weak within a second after a change, and on file systems
/// whose times have no fractions of seconds.
///
/// While another process holds a lease on a file, the response is 503 with `Retry-After`.
///
/// No path and no encoding reaches a file outside of the directory: the kernel resolves it below the directory (`openat2`).
/// The response is 404 for links that lead out of it, for names that begin with a dot (except `.well-known`), and for
/// anything but regular files and directories. Where `openat2` is missing (before Linux 5.6, under qemu's user mode, and in
/// sandboxes whose filters forbid it), each name is opened without following links, so the response is 404 for every
/// symbolic link, also for one that stays inside. The root itself may be a link.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::ServeDir;
///
/// let router = Router::new()
///     .get("/", |_: Request| "hello\n")
///     .get("/static/{*path}", ServeDir::new("public").cache_control("max-age=3600"))
///     .nest("/more", ServeDir::new("more"));
/// # let _ = router;
/// ```
///
/// The name of the file is the parameter `path`, or else the path below the prefix of [`Router::nest`](crate::Router::nest),
/// or the whole path.
#[derive(Clone, Debug)]
pub struct ServeDir {
    root: PathBuf,
    links: Links,
    dotfiles: bool,
    packed: bool,
    cache_control: Option<HeaderValue>,
    mistake: Option<String>,
}

impl ServeDir {
    /// Serves this directory, which is looked up at each request. Its existence is checked before the server starts.
    pub fn new(root: impl Into<PathBuf>) -> ServeDir {
        let links = Links::Inside;
        let (dotfiles, packed) = (false, false);
        ServeDir { root: root.into(), links, dotfiles, packed, cache_control: None, mistake: None }
    }

    /// Follows no symbolic links. Default: links that stay inside the directory are followed, where `openat2` exists (see
    /// [`ServeDir`]).
    #[must_use]
    pub fn no_symlinks(self) -> ServeDir {
        ServeDir { links: Links::None, ..self }
    }

    /// Also serves files whose name, or that of a directory they are in, begins with a dot.
    #[must_use]
    pub fn dotfiles(self) -> ServeDir {
        ServeDir { dotfiles: true, ..self }
    }

    /// If `NAME.gz` is beside a file, clients that accept gzip get it: with the type of the file, `Content-Encoding: gzip` and
    /// an entity tag of its own, whose ranges are ranges of the compressed bytes. All files have `Vary: Accept-Encoding`. A
    /// `NAME.gz` that is older than its file is ignored: `gzip --keep` gives it the same time, to the nanosecond. If a file is
    /// replaced by one with the same time, compress it again, because nothing shows that its `NAME.gz` is stale. Default: no.
    ///
    /// This takes no time to compress, unlike `wrap::Gzip` (feature `gzip`), which compresses the other responses:
    ///
    /// ```
    /// use heirloom::ServeDir;
    /// let files = ServeDir::new("public").precompressed_gzip();
    /// ```
    #[must_use]
    pub fn precompressed_gzip(self) -> ServeDir {
        ServeDir { packed: true, ..self }
    }

    /// Sends `Cache-Control` with each file. Default: none, so clients revalidate or guess.
    #[must_use]
    pub fn cache_control(mut self, value: &str) -> ServeDir {
        match HeaderValue::try_from(value) {
            Ok(value) => self.cache_control = Some(value),
            Err(e) => self.mistake = Some(format!("Cache-Control {value:?}: {e}")),
        }
        self
    }

    fn answer(&self, request: &Request) -> Result<Response, StatusCode> {
        let descriptor = descriptor(request)?;
        let path = request.path();
        if path.contains("%2F") {
            // A name can't contain a slash.
            return Err(StatusCode::NOT_FOUND);
        }
        let whole;
        let asked = match request.param("path") {
            Some(path) => path,
            None => {
                let below = path.get(request.prefix().len()..).unwrap_or_default();
                let path = below.strip_prefix('/').unwrap_or(below);
                whole = decoded_text(path).ok_or(StatusCode::BAD_REQUEST)?;
                &whole
            }
        };
        let mut name = self.relative(asked).ok_or(StatusCode::NOT_FOUND)?;
        let open = |name: &str| open::beneath(&self.root, name, self.links).map_err(|e| status_of(&e, name));
        let mut found = open(&name)?;
        if let Opened::Directory = found {
            if !path.ends_with('/') {
                return Ok(to_folder(request));
            }
            name = if name == "." { "index.html".to_owned() } else { format!("{name}/index.html") };
            found = open(&name)?;
        } else if asked.ends_with('/') {
            return Err(StatusCode::NOT_FOUND);
        }
        match found {
            Opened::File(file) => {
                let (file, form) = self.form(request, file, &name);
                let headers =
                    FileHeaders { name: Path::new(&name), form, cache: self.cache_control.as_ref() };
                respond(request, file, descriptor, &headers).map_err(|e| status_of(&e, &name))
            }
            Opened::Directory | Opened::Other => Err(StatusCode::NOT_FOUND),
        }
    }

    /// The file itself, or its compressed form for clients that accept it.
    fn form(&self, request: &Request, file: File, name: &str) -> (File, FileForm) {
        if !self.packed {
            return (file, FileForm::Only);
        }
        if !accepts_gzip(request.headers()) {
            return (file, FileForm::Plain);
        }
        match open::beneath(&self.root, &format!("{name}.gz"), self.links) {
            Ok(Opened::File(packed)) if !is_older(&packed, &file) => (packed, FileForm::Gzip),
            _ => (file, FileForm::Plain),
        }
    }

    /// The path from the root, without parts that could lead elsewhere; `.` for the root itself.
    fn relative(&self, asked: &str) -> Option<String> {
        let path = asked.strip_suffix('/').unwrap_or(asked);
        if path.is_empty() {
            return asked.is_empty().then(|| ".".to_owned());
        }
        let good = |name: &str| {
            let hidden = name.starts_with('.') && name != ".well-known" && !self.dotfiles;
            !(name.is_empty() || name == "." || name == ".." || name.contains('\0') || hidden)
        };
        path.split('/').all(good).then(|| path.to_owned())
    }
}

impl Handler for ServeDir {
    fn call(&self, request: Request) -> Response {
        match only_read(&request) {
            Some(refusal) => refusal,
            None => self.answer(&request).unwrap_or_else(refusal),
        }
    }

    fn routes(&self, _: Seal) -> Option<&dyn Routes> {
        Some(self)
    }
}

impl Routes for ServeDir {
    fn verify(&self) -> Result<(), String> {
        match std::fs::metadata(&self.root) {
            Ok(found) if found.is_dir() => self.mistake.clone().map_or(Ok(()), Err),
            Ok(_) => Err(format!("{} is not a directory", self.root.display())),
            Err(e) => Err(format!("{}: {e}", self.root.display())),
        }
    }
}

/// A handler that serves one file, as [`ServeDir`] does. The file may be anywhere, and may be a link.
///
/// Content that the kernel generates on read (procfs, sysfs, cgroups) is read at once, up to 4 MiB, and sent whole, without
/// validators or ranges, because it may differ the next time; above that the response is 500.
///
/// It can be called from another handler, once that has decided that the client may have the file:
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::ServeFile;
///
/// fn report(req: Request) -> Response {
///     let name = "attachment; filename=report.txt";
///     ServeFile::new("/var/lib/reports/7").call(req).with_header("content-disposition", name)
/// }
/// let router = Router::new().get("/favicon.ico", ServeFile::new("favicon.ico")).get("/report", report);
/// # let _ = router;
/// ```
#[derive(Clone, Debug)]
pub struct ServeFile {
    path: PathBuf,
}

impl ServeFile {
    /// Serves this file, which is opened at each request.
    pub fn new(path: impl Into<PathBuf>) -> ServeFile {
        ServeFile { path: path.into() }
    }
}

impl Handler for ServeFile {
    fn call(&self, request: Request) -> Response {
        if let Some(refusal) = only_read(&request) {
            return refusal;
        }
        let descriptor = match descriptor(&request) {
            Ok(descriptor) => descriptor,
            Err(status) => return refusal(status),
        };
        let headers = FileHeaders { name: &self.path, form: FileForm::Only, cache: None };
        let answer = open::trusted(&self.path).and_then(|found| match found {
            Opened::File(file) => respond(&request, file, descriptor, &headers),
            Opened::Directory | Opened::Other => Ok(plain(StatusCode::NOT_FOUND)),
        });
        answer.unwrap_or_else(|e| refusal(status_of(&e, &self.path.display().to_string())))
    }
}

fn only_read(request: &Request) -> Option<Response> {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    (!reads).then(|| plain(StatusCode::METHOD_NOT_ALLOWED).with_header(ALLOW, "GET, HEAD"))
}

/// The counted descriptor for the file of a request, taken before it is opened. None without a server.
fn descriptor(request: &Request) -> Result<Option<Share>, StatusCode> {
    let conn_info = request.body().conn_info();
    let Some(budget) = conn_info.and_then(|conn_info| conn_info.files.as_ref()) else {
        return Ok(None);
    };
    let share = budget.descriptors.one();
    if share.is_none() {
        warn!("no descriptor is left for a file: 503");
    }
    share.map(Some).ok_or(StatusCode::SERVICE_UNAVAILABLE)
}

fn refusal(status: StatusCode) -> Response {
    if status == StatusCode::SERVICE_UNAVAILABLE { busy() } else { plain(status) }
}

/// The response for a file that can't be opened.
fn status_of(e: &io::Error, name: &str) -> StatusCode {
    match e.raw_os_error() {
        // EXDEV and ELOOP: the path leads out, or over a link where none is followed.
        Some(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::ENAMETOOLONG
            | libc::EXDEV
            | libc::ELOOP
            | libc::ENXIO
            | libc::ENODEV
            // In procfs: the process has ended.
            | libc::ESRCH
            | libc::EINVAL,
        ) => StatusCode::NOT_FOUND,
        Some(libc::EACCES | libc::EPERM) => StatusCode::FORBIDDEN,
        // Another process holds a lease on it, and the kernel has just asked it to release that.
        Some(libc::EAGAIN) => StatusCode::SERVICE_UNAVAILABLE,
        _ if e.kind() == ErrorKind::NotFound => StatusCode::NOT_FOUND,
        _ if lacks_descriptor(e) => {
            warn!("can't open {name} for now: {e}: 503");
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => {
            error!("500: can't open {name}: {e}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// The same address with a slash added, as a relative reference: it keeps a prefix that a proxy has removed from the path.
fn to_folder(request: &Request) -> Response {
    let path = request.path();
    let name = path.rsplit('/').next().unwrap_or_default();
    // The text before a colon would be a scheme (RFC 3986 §4.2).
    let here = if name.contains(':') { "./" } else { "" };
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    crate::Redirect::permanent(format!("{here}{name}/{query}")).into_response()
}

/// What the header fields of a file's response depend on.
struct FileHeaders<'a> {
    name: &'a Path,
    form: FileForm,
    cache: Option<&'a HeaderValue>,
}

/// The form in which a file is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileForm {
    /// There is no other form.
    Only,
    Plain,
    Gzip,
}

/// A file whose modification time can't be read counts as older.
fn is_older(file: &File, than: &File) -> bool {
    let modified = |file: &File| file.metadata().and_then(|facts| facts.modified());
    !matches!((modified(file), modified(than)), (Ok(ours), Ok(theirs)) if ours >= theirs)
}

impl FileHeaders<'_> {
    /// The fields that a 304 has too.
    fn for_caches(&self, mut response: Response) -> Response {
        if self.form != FileForm::Only {
            vary(response.headers_mut(), ACCEPT_ENCODING);
        }
        match self.cache {
            Some(value) => response.with_header(CACHE_CONTROL, value.clone()),
            None => response,
        }
    }

    fn describe(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, kind(self.name));
        // The type follows from the name, even if the bytes look like another type.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.form == FileForm::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        self.for_caches(response)
    }
}

fn respond(
    request: &Request,
    mut file: File,
    descriptor: Option<Share>,
    headers: &FileHeaders<'_>,
) -> io::Result<Response> {
    let facts = file.metadata()?;
    if let Some(content) = made::content(&mut file, &facts)? {
        return Ok(match Validators::new().check(request) {
            Some(answer) => headers.for_caches(answer),
            None => headers.describe(Response::new(Body::from(content))),
        });
    }
    let len = facts.len();
    let form = if headers.form == FileForm::Gzip { "-gz" } else { "" };
    let validators = Version::of(&facts).validators(SystemTime::now(), form);
    if let Some(mut answer) = validators.check(request) {
        if headers.form != FileForm::Gzip {
            answer.extensions_mut().insert(Whole { kind: kind(headers.name), len });
        }
        return Ok(headers.for_caches(answer));
    }
    let ranged = *request.method() == Method::GET && validators.allow_range(request);
    let mut ranges = request.headers().get_all(RANGE).iter();
    let value = ranges.next().filter(|_| ranged && ranges.next().is_none());
    let wanted =
        value.and_then(|value| ascii(value.as_bytes())).map_or(Wanted::All, |v| range::wanted(v, len));
    let (status, start, count) = match wanted {
        Wanted::All => (StatusCode::OK, 0, len),
        Wanted::Part { start, count } => (StatusCode::PARTIAL_CONTENT, start, count),
        Wanted::Nothing => {
            let refusal = plain(StatusCode::RANGE_NOT_SATISFIABLE);
            return Ok(refusal.with_header(CONTENT_RANGE, format!("bytes */{len}")));
        }
    };
    if start > 0 {
        file.seek(SeekFrom::Start(start))?;
    }
    let response =
        validators.mark(Response::new(Body::counted_file(file, count, descriptor))).with_status(status);
    let response = headers.describe(response).with_header(ACCEPT_RANGES, "bytes");
    Ok(match status {
        StatusCode::PARTIAL_CONTENT => response.with_header(
            CONTENT_RANGE,
            format!("bytes {start}-{}/{len}", start.saturating_add(count).saturating_sub(1)),
        ),
        _ => response,
    })
}

fn kind(name: &Path) -> HeaderValue {
    let kind = mime_guess::from_path(name).first_raw().unwrap_or("application/octet-stream");
    let text = kind.starts_with("text/") || kind == "application/javascript";
    let value = if text { HeaderValue::try_from(format!("{kind}; charset=utf-8")).ok() } else { None };
    value.unwrap_or(HeaderValue::from_static(kind))
}
