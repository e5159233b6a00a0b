//! The patterns of routes, in the normalized spelling of paths.

use std::borrow::Cow;

use matchit::InsertError;

use crate::base::percent::normal_path;

pub(super) struct ParsedPattern {
    /// The pattern in the normalized spelling of paths.
    pub(super) normal: String,
    /// The names of its parameters.
    pub(super) names: Vec<String>,
    /// The place in `normal` where a final `{*name}` begins.
    rest: Option<usize>,
}

impl ParsedPattern {
    /// The pattern for the paths in which a final `{*name}` is empty.
    pub(super) fn without_rest(&self) -> Option<&str> {
        self.normal.get(..self.rest?)
    }

    /// Parses a pattern.
    ///
    /// # Errors
    /// Why no path can match it.
    pub(super) fn of(pattern: &str) -> Result<ParsedPattern, String> {
        if !pattern.starts_with('/') {
            return Err("a pattern must begin with '/'".into());
        }
        if let Some(c) =
            pattern.chars().find(|c| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control())
        {
            return Err(format!("a path can't contain {c:?}"));
        }
        let spelled = |literal: &str| {
            let why = "'%' must be followed by two hexadecimal digits (write a literal % as %25)";
            normal_path(literal).map(Cow::into_owned).ok_or(why)
        };
        let (mut normal, mut names, mut last) = (String::new(), Vec::<String>::new(), None);
        let (mut literal, mut rest) = (String::new(), pattern);
        while let Some((before, from)) = rest.find(['{', '}']).and_then(|at| rest.split_at_checked(at)) {
            literal.push_str(before);
            let mut chars = from.chars();
            let brace = chars.next().unwrap_or_default();
            rest = chars.as_str();
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push(brace);
                rest = after;
                continue;
            }
            let Some((param, after)) = rest.split_once('}').filter(|_| brace == '{') else {
                return Err("unbalanced brace (write a literal brace twice)".into());
            };
            let name = param.strip_prefix('*').unwrap_or(param);
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
                return Err(format!("{name:?} is not a parameter name"));
            }
            if names.iter().any(|n| n == name) {
                return Err(format!("two parameters are named {name:?}"));
            }
            names.push(name.into());
            normal.push_str(&spelled(&std::mem::take(&mut literal))?);
            last = (name != param).then_some(normal.len());
            normal.push_str(&format!("{{{param}}}"));
            rest = after;
        }
        literal.push_str(rest);
        normal.push_str(&spelled(&literal)?);
        Ok(ParsedPattern { normal, names, rest: last })
    }
}

pub(super) fn malformed(e: &InsertError) -> &'static str {
    match e {
        InsertError::InvalidParamSegment => "a segment can have one parameter only",
        InsertError::InvalidCatchAll => "{*name} can only be a whole segment, and the last",
        _ => "the pattern is malformed",
    }
}
