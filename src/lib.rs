//! heirloom
mod limits;
pub use limits::{Limits, Timeouts};
/// A request: the head as `http` has it, and a [`Body`].
pub type Request = http::Request<Body>;
/// A response: the head as `http` has it, and a [`Body`].
pub type Response = http::Response<Body>;
mod body;
mod phase;
mod handler;
mod pace;
mod origin;
mod http1;
pub use body::Body;
pub use handler::Handler;
pub use origin::Origin;
pub use phase::Phase;
