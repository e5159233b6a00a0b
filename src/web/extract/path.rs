//! The parameters of a path, read as types.
//!
//! A value that is not of the wanted type is a 404, not a 400: the path names no resource, as `/users/ada` does where users
//! have numbers. A parameter that the pattern does not have is a mistake of the program: 500, and logged.

use std::any::type_name;
use std::fmt::Display;
use std::str::FromStr;

use http::StatusCode;

use super::InputError;
use crate::web::response::log_failure;

/// Tuples of up to six types that implement [`FromStr`], for [`RequestExt::params_as`](crate::RequestExt::params_as).
#[diagnostic::on_unimplemented(
    message = "the parameters of a path can't be read as `{Self}`",
    label = "not a tuple of types that implement `FromStr`",
    note = "one parameter is read by `param_as::<T>(name)`, or as the tuple `(T,)`; several as a tuple of up to six"
)]
pub trait FromParams: Sized + sealed::Sealed {
    #[doc(hidden)]
    const COUNT: usize;

    #[doc(hidden)]
    fn read<'p>(params: impl Iterator<Item = (&'p str, &'p str)>) -> Result<Self, InputError>;
}

/// Reads one parameter.
pub(crate) fn read<T: FromStr<Err: Display>>(name: &str, value: Option<&str>) -> Result<T, InputError> {
    let Some(value) = value else {
        return Err(mistake(format_args!("the route has no parameter {name:?}")));
    };
    value.parse().map_err(|e: T::Err| {
        let field = Some(name.to_owned());
        InputError { field, ..InputError::of(StatusCode::NOT_FOUND, e.to_string()) }
    })
}

/// Reads all parameters, or those of the innermost router's pattern, which are the last `own` ones.
pub(crate) fn read_all<'p, T: FromParams>(
    params: impl Iterator<Item = (&'p str, &'p str)> + Clone,
    own: usize,
) -> Result<T, InputError> {
    let all = params.clone().count();
    if T::COUNT != all && T::COUNT != own {
        return Err(mistake(format_args!(
            "the route has {all} parameters, not those of {}",
            type_name::<T>()
        )));
    }
    T::read(params.skip(all.saturating_sub(T::COUNT)))
}

fn mistake(what: impl Display) -> InputError {
    log_failure(what);
    InputError::of(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the route does not have the parameters that its handler reads",
    )
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! tuples {
    ($($count:literal: $($t:ident)+;)+) => {$(
        impl<$($t: FromStr<Err: Display>),+> sealed::Sealed for ($($t,)+) {}

        impl<$($t: FromStr<Err: Display>),+> FromParams for ($($t,)+) {
            const COUNT: usize = $count;

            fn read<'p>(mut params: impl Iterator<Item = (&'p str, &'p str)>) -> Result<Self, InputError> {
                Ok(($({
                    let (name, value) = params.next().unzip();
                    read::<$t>(name.unwrap_or_default(), value)?
                },)+))
            }
        }
    )+};
}

tuples! {
    1: A;
    2: A B;
    3: A B C;
    4: A B C D;
    5: A B C D E;
    6: A B C D E F;
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io;

    use http::StatusCode;

    use crate::web::response::{AnyError, IntoResponse};
    use crate::{Body, InputError, Request, RequestExt, Router};

    fn shown(router: &Router, path: &str) -> (u16, String) {
        let mut response =
            crate::Handler::call(router, http::Request::get(path).body(Body::empty()).unwrap());
        (response.status().as_u16(), response.body_mut().read_text().unwrap())
    }

    #[test]
    fn a_value_of_another_type_is_a_404_and_a_mistake_a_500() {
        fn one(req: Request) -> Result<String, InputError> {
            Ok(req.param_as::<u8>("id")?.to_string())
        }
        fn both(req: Request) -> Result<String, InputError> {
            let (id, name) = req.params_as::<(i8, String)>()?;
            Ok(format!("{id} {name}"))
        }
        fn unknown(req: Request) -> Result<String, InputError> {
            req.param_as("other")
        }
        fn too_many(req: Request) -> Result<String, InputError> {
            Ok(req.params_as::<(u8, u8)>()?.0.to_string())
        }
        let router = Router::new()
            .get("/one/{id}", one)
            .get("/both/{id}/{*name}", both)
            .get("/unknown/{id}", unknown)
            .get("/many/{id}", too_many);
        let cases = [
            ("/one/7", 200, "7"),
            ("/one/256", 404, "id: number too large to fit in target type\n"),
            ("/one/a", 404, "id: invalid digit found in string\n"),
            ("/both/-7/a/J%C3%B8", 200, "-7 a/Jø"),
            ("/both/-7/", 200, "-7 "),
            ("/both/x/a", 404, "id: invalid digit found in string\n"),
            ("/unknown/7", 500, "the route does not have the parameters that its handler reads\n"),
            ("/many/7", 500, "the route does not have the parameters that its handler reads\n"),
        ];
        for (path, status, text) in cases {
            assert_eq!(shown(&router, path), (status, text.to_owned()), "{path}");
        }
    }

    /// `?` in a handler that returns another error leaves the response as it is.
    #[test]
    fn an_input_error_keeps_its_status_as_another_error() {
        let error = || crate::web::extract::path::read::<u8>("id", Some("x")).unwrap_err();
        let boxed: Box<dyn Error + Send + Sync> = error().into();
        let responses = [
            error().into_response(),
            io::Error::from(error()).into_response(),
            boxed.into_response(),
            Box::<dyn Error>::from(io::Error::from(error())).into_response(),
            AnyError::from(error()).into_response(),
        ];
        for response in responses {
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
        }
    }
}
