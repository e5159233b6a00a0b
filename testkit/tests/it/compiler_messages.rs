//! The messages of the compiler that a newcomer reads: `testkit/mistakes/main.rs` has the mistakes.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::Access;
use testkit::{outside_of_cargo, skip};

#[test]
fn mistakes_are_explained_in_the_words_of_the_library() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if rustix::fs::access(scratch, Access::WRITE_OK).is_err() {
        return skip("this test compiles, and may not write to the target directory");
    }
    let package = scratch.join("messages");
    fs::create_dir_all(package.join("src")).unwrap();
    fs::copy(here.join("mistakes/main.rs"), package.join("src/main.rs")).unwrap();
    fs::copy(here.join("../Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let library = here.parent().unwrap().display();
    let manifest = format!(
        "[package]\nname = \"messages\"\nedition = \"2024\"\n[workspace]\n[dependencies]\nheirloom = {{ path = {:?} }}\n",
        library.to_string()
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    let mut check = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The dependencies are there: those of a check of the workspace, if there was one.
    check
        .args(["check", "--offline", "--quiet", "--target-dir"])
        .arg(scratch.parent().unwrap())
        .current_dir(&package);
    let check = outside_of_cargo(&mut check).output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success(), "the mistakes compile");
    let wanted = [
        "`Unknown` is not a response: a handler can't return it",
        "responses are strings, bytes, `StatusCode`",
        "`ParseIntError` is not a response",
        "once it is converted to `heirloom::AnyError`",
        "a handler is a blocking function, not an `async` one",
        "`NoHandler` is not a handler",
        "a closure must name the type of a parameter that it uses: `|req: Request| ...`",
        "`NoWrapper` is not a wrapper",
        "the parameters of a path can't be read as `u32`",
        "`RequestExt::json` needs the feature `json` of heirloom",
        "in Cargo.toml: heirloom = { version = \"0.1\", features = [\"json\"] }",
        "need the feature `form` of heirloom",
        "`RequestExt::multipart` needs the feature `multipart` of heirloom",
        "need the feature `cookies` of heirloom",
        "sessions, signed cookies and private cookies need the feature `sessions` of heirloom",
        "`RequestExt::tls` and `Listen::tls` need the feature `tls` of heirloom",
        "`Listen::trust_proxies` needs the feature `proxy` of heirloom",
        "`Server::admin`, `Server::metrics`, `Server::readiness` and `Handle::metrics` need the feature `admin` of heirloom",
    ];
    let missing: Vec<_> = wanted.into_iter().filter(|wanted| !said.contains(wanted)).collect();
    assert!(missing.is_empty(), "not said: {missing:#?}\n{said}");
    for foreign in ["not general enough", "no method named", "error[E0599]"] {
        assert!(!said.contains(foreign), "{foreign:?} is said:\n{said}");
    }
}
