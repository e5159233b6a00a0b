//! What the compiler says where a program calls a method whose feature is not enabled: the feature's name, instead of "no
//! method".
//!
//! Without its feature, the method exists under a condition that no type meets; the condition's message names the feature.
//! (Of a type, rustc itself says that it is configured out, where it is named by its path.)

#[cfg(not(feature = "json"))]
#[diagnostic::on_unimplemented(
    message = "`RequestExt::json` needs the feature `json` of heirloom",
    label = "needs the feature `json`",
    note = "in Cargo.toml: heirloom = {{ version = \"0.1\", features = [\"json\"] }}"
)]
pub trait Json {
    #[doc(hidden)]
    fn never<T>(&self) -> T;
}

#[cfg(not(feature = "form"))]
#[diagnostic::on_unimplemented(
    message = "`RequestExt::form` and `RequestExt::query` need the feature `form` of heirloom",
    label = "needs the feature `form`",
    note = "in Cargo.toml: heirloom = {{ version = \"0.1\", features = [\"form\"] }}"
)]
pub trait Form {
    #[doc(hidden)]
    fn never<T>(&self) -> T;
}

#[cfg(not(feature = "multipart"))]
#[diagnostic::on_unimplemented(
    message = "`RequestExt::multipart` needs the feature `multipart` of heirloom",
    label = "needs the feature `multipart`",
    note = "in Cargo.toml: heirloom = {{ version = \"0.1\", features = [\"multipart\"] }}"
)]
pub trait Multipart {
    #[doc(hidden)]
    fn never<T>(&self) -> T;
}

#[cfg(not(feature = "cookies"))]
#[diagnostic::on_unimplemented(
    message = "`RequestExt::cookie`, `RequestExt::cookies` and `ResponseExt::with_cookie` need the feature `cookies` of heirloom",
    label = "needs the feature `cookies`",
    note = "in Cargo.toml: heirloom = {{ version = \"0.1\", features = [\"cookies\"] }}"
)]
pub trait Cookies {
    #[doc(hidden)]
    fn never<T>(&self) -> T;
}

#[cfg(not(feature = "sessions"))]
#[diagnostic::on_unimplemented(
    message = "sessions, signed cookies and private cookies need the feature `sessions` of heirloom",
    label = "needs the feature `sessions`",
    note = "in Cargo.toml: heirloom = {{ version = \"0.1\", features = [\"sessions\"] }}"
)]
pub trait Sessions {
    #[doc(hidden)]
    fn never<T>(&self) -> T;
}

#[cfg(not(feature = "tls"))]
#[diagnostic::on_unimplemented(
    message = "`RequestExt::tls` and `Listen::tls` need the feature `tls` of heirloom",
    label = "needs the feature `tls`",
    note = "in Cargo.toml: heirloom = {{ version = \"0.1\", features = [\"tls\"] }}"
)]
pub trait Tls {
    #[doc(hidden)]
    fn never<T>(&self) -> T;
}

#[cfg(not(feature = "proxy"))]
#[diagnostic::on_unimplemented(
    message = "`Listen::trust_proxies` needs the feature `proxy` of heirloom",
    label = "needs the feature `proxy`",
    note = "in Cargo.toml: heirloom = {{ version = \"0.1\", features = [\"proxy\"] }}"
)]
pub trait Proxies {
    #[doc(hidden)]
    fn never<T>(&self) -> T;
}

#[cfg(not(feature = "admin"))]
#[diagnostic::on_unimplemented(
    message = "`Server::admin`, `Server::metrics`, `Server::readiness` and `Handle::metrics` need the feature `admin` of heirloom",
    label = "needs the feature `admin`",
    note = "in Cargo.toml: heirloom = {{ version = \"0.1\", features = [\"admin\"] }}"
)]
pub trait Admin {
    #[doc(hidden)]
    fn never<T>(&self) -> T;
}
