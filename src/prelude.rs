//! What most programs and handlers need: `use heirloom::prelude::*;`.

pub use ::http;
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

#[cfg(any(feature = "json", feature = "form"))]
pub use crate::InputError;
pub use crate::{
    Body, Handle, Handler, Html, IntoResponse, Limits, Listen, Next, PerWorker, ProcessConfig, Redirect,
    Request, RequestExt, Response, ResponseExt, Router, Server, Timeouts, limited, max_body, streaming,
    with_state,
};
#[cfg(feature = "json")]
pub use crate::{Json, Problem};
#[cfg(feature = "files")]
pub use crate::{ServeDir, ServeFile};
