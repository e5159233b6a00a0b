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
        pattern.split('/').try_for_each(is_not_foreign)?;
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
            if let Some(name) = name.strip_suffix("...") {
                return Err(format!("{{{name}...}} matches nothing: all the rest of a path is {{*{name}}}"));
            }
            if let Some((name, _)) = name.split_once(':') {
                return Err(format!(
                    "a parameter has no type or expression: write {{{name}}}, and read it by `param_as`"
                ));
            }
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

/// Refuses a segment that is a parameter in the syntax of another framework, and would match only itself here.
///
/// # Errors
/// How the parameter is written here, and how the literal text.
fn is_not_foreign(segment: &str) -> Result<(), String> {
    let name_of = |text: &str| {
        let name: String =
            text.chars().take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
        if name.is_empty() { "rest".to_owned() } else { name }
    };
    let within = |open, close| {
        let (inner, _) = segment.strip_prefix(open)?.split_once(close)?;
        // Flask and Rocket: `<int:id>`, `<path..>`.
        Some(name_of(inner.rsplit(':').next().unwrap_or(inner)))
    };
    let is_name = |name: &&str| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let (right, literal) = if let Some(name) = segment.strip_prefix(':').filter(is_name) {
        (format!("{{{}}}", name_of(name)), "':' at the start of a segment is %3A")
    } else if segment.starts_with('*') {
        (format!("{{*{}}}", name_of(segment.trim_start_matches('*'))), "'*' at the start of a segment is %2A")
    } else if let Some(name) = within('<', '>') {
        (format!("{{{name}}}"), "'<' is %3C")
    } else if let Some(name) = within('[', ']') {
        (format!("{{{name}}}"), "'[' is %5B")
    } else {
        return Ok(());
    };
    Err(format!("{segment} is no parameter: write {right} (a literal {literal})"))
}

pub(super) fn malformed(e: &InsertError) -> &'static str {
    match e {
        InsertError::InvalidParamSegment => "a segment can have one parameter only",
        InsertError::InvalidCatchAll => "{*name} can only be a whole segment, and the last",
        _ => "the pattern is malformed",
    }
}
