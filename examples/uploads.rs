//! A form with files: the fields one after the other, the files in temporary files, and limits. The body is read while it
//! arrives, so an upload of any length needs little memory.
//!
//! ```text
//! $ cargo run --example uploads --features multipart -- 127.0.0.1:8001
//! $ head -c 3000000 /dev/zero > zeros.bin
//! $ curl -F title='Two files' -F copies=2 -F file=@zeros.bin -F 'file=@examples/hello.rs;type=text/plain' http://127.0.0.1:8001/
//! Two files, 2 copies
//! zeros.bin (application/octet-stream): 3000000 bytes
//! hello.rs (text/plain): ... bytes
//! $ curl -w '%{http_code}\n' -F copies=many http://127.0.0.1:8001/
//! copies: invalid digit found in string
//! 422
//! $ head -c 9000000 /dev/zero > long.bin
//! $ curl -w '%{http_code}\n' -F file=@long.bin http://127.0.0.1:8001/
//! file: longer than 8388608 bytes
//! 413
//! $ curl -w '%{http_code}\n' -d title=x http://127.0.0.1:8001/
//! the body must be multipart/form-data, by its Content-Type
//! 415
//! ```
//!
//! Or open it in a browser.

use heirloom::multipart::TemporaryFile;
use heirloom::prelude::*;

const PAGE: &str = "<!doctype html>\n<title>Uploads</title>\n<form method=\"post\" enctype=\"multipart/form-data\">\n\
    <p>Title: <input name=\"title\">\n<p>Copies: <input name=\"copies\" value=\"1\">\n\
    <p><input type=\"file\" name=\"file\" multiple>\n<p><button>Send</button>\n</form>\n";

struct Upload {
    name: String,
    kind: String,
    file: TemporaryFile,
}

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let router =
        Router::new().get("/", |_: Request| Html(PAGE)).post("/", max_body(100 << 20, streaming(receive)));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

fn receive(mut req: Request) -> Result<String, InputError> {
    let mut form = req.multipart()?.fields(20).field_bytes(1 << 10).file_bytes(8 << 20);
    let (mut title, mut copies, mut uploads) = (String::new(), 1_u32, Vec::new());
    while let Some(field) = form.next_field()? {
        match (field.name(), field.file_name()) {
            ("title", _) => title = field.text()?,
            ("copies", _) => copies = field.parse()?,
            // A browser sends an empty name for a file that is not chosen.
            ("file", Some(name)) if !name.is_empty() => {
                let (name, kind) = (name.to_owned(), field.content_type().unwrap_or("unknown").to_owned());
                uploads.push(Upload { name, kind, file: field.save_to_temporary_file()? });
            }
            _ => {}
        }
    }
    let mut report = format!("{title}, {copies} copies\n");
    for Upload { name, kind, file } in uploads {
        // Here it would be read, as any `Read`; at the end of this block it is gone.
        report += &format!("{name} ({kind}): {} bytes\n", file.len());
    }
    Ok(report)
}
