//! The names that most programs and handlers need: `use heirloom::prelude::*;`.

pub use ::http;
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

pub use crate::{
    AnyError, Body, EarlyResponse, Handle, Handler, Html, InputError, IntoResponse, Limits, Listen, Next,
    PerWorker, ProcessConfig, Redirect, Request, RequestExt, Response, ResponseExt, Router, Server, Timeouts,
    deadline, limited, max_body, streaming, with_arc, with_state,
};
#[cfg(feature = "json")]
pub use crate::{Json, Problem};
#[cfg(feature = "files")]
pub use crate::{ServeDir, ServeFile};
