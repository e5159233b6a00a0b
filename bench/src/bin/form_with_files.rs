//! A form with files (`multipart/form-data`) read by multer, an async parser, over a body that is there when
//! the handler runs: nothing is waited for but a disk. `form_with_files ADDRESS`, then `curl -F name=you -F
//! file=@Cargo.toml ADDRESS`.

use std::io::Read;

use bytes::Bytes;
use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let router = Router::new().post("/", max_body(100 << 20, upload));
    Server::new(router).listen(listen).serve()
}

fn parts(req: Request) -> Result<multer::Multipart<'static>, multer::Error> {
    let kind = req.headers().get("content-type").map(|kind| String::from_utf8_lossy(kind.as_bytes()));
    let boundary = multer::parse_boundary(kind.unwrap_or_default())?;
    let mut body = req.into_body();
    let pieces = std::iter::from_fn(move || {
        let mut piece = vec![0; 64 << 10];
        match body.read(&mut piece) {
            Ok(0) => None,
            Ok(n) => Some(Ok(Bytes::from(piece).slice(..n))),
            Err(e) => Some(Err(e)),
        }
    });
    Ok(multer::Multipart::new(futures_util::stream::iter(pieces), boundary))
}

fn upload(req: Request) -> Result<String, BadForm> {
    let (mut form, mut report) = (parts(req)?, String::new());
    pollster::block_on(async {
        while let Some(mut part) = form.next_field().await? {
            let mut bytes = 0;
            while let Some(piece) = part.chunk().await? {
                bytes += piece.len();
            }
            // No path: never opened.
            let file = part.file_name().map(|name| format!(", called {name:?}")).unwrap_or_default();
            report += &format!("{}: {bytes} bytes{file}\n", part.name().unwrap_or("?"));
        }
        Ok(report)
    })
}

/// No form, or a body that can't be read.
struct BadForm(multer::Error);

impl From<multer::Error> for BadForm {
    fn from(e: multer::Error) -> BadForm {
        BadForm(e)
    }
}

impl IntoResponse for BadForm {
    fn into_response(self) -> Response {
        match self.0 {
            // 408 and 413 of streaming routes, or the server's own trouble.
            multer::Error::StreamReadFailed(e) => e.into_response(),
            e => (StatusCode::BAD_REQUEST, format!("{e}\n")).into_response(),
        }
    }
}
