//! What most programs and handlers need: `use heirloom::prelude::*;`.

pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

pub use crate::{
    Body, Handle, Handler, Html, IntoResponse, Next, Redirect, Request, RequestExt, Response, ResponseExt,
    Router, Server, max_body, streaming,
};
