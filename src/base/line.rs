//! Builds a line of text without `core::fmt`, because a line of the access log took 7,400 instructions with it and takes 4,300
//! without.
//!
//! What is appended is UTF-8, so the line is.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::Display;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::log::{JsonText, Quoted, Value};

/// Memory of longer lines is not kept.
const MOST_KEPT: usize = 4 << 10;

thread_local! {
    /// The memory of the last line.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with an empty line, which has the memory of this thread's last one.
pub(crate) fn with_line<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    // A thread that is ending has none, and a logger may log.
    let mut line = SPARE.try_with(Cell::take).unwrap_or_default();
    line.clear();
    let result = f(&mut line);
    if line.capacity() <= MOST_KEPT {
        let _ = SPARE.try_with(|spare| spare.set(line));
    }
    result
}

/// Appends the text of `Display`.
pub(crate) fn push_display(line: &mut Vec<u8>, value: impl Display) {
    // A `Vec` takes everything.
    let _ = write!(line, "{value}");
}

pub(crate) fn push_number(line: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut len = 0usize;
    for digit in digits.iter_mut().rev() {
        *digit = digit.saturating_add((number % 10) as u8);
        number /= 10;
        len = len.wrapping_add(1);
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(digits.split_at(digits.len().saturating_sub(len)).1);
}

/// With zeros before it, so that there are `N` digits. Higher digits are left out.
pub(crate) fn push_digits<const N: usize>(line: &mut Vec<u8>, number: u64) {
    let mut digits = [b'0'; N];
    put_digits(&mut digits, number);
    line.extend_from_slice(&digits);
}

/// Adds a number to zeros, digit by digit.
pub(crate) fn put_digits(zeros: &mut [u8], mut number: u64) {
    for digit in zeros.iter_mut().rev() {
        *digit = digit.saturating_add((number % 10) as u8);
        number /= 10;
    }
}

pub(crate) fn push_ip(line: &mut Vec<u8>, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else { return push_display(line, ip) };
    let mut text = [b'.'; 16];
    let mut len = 0usize;
    let mut put = |byte| {
        if let Some(place) = text.get_mut(len) {
            *place = byte;
        }
        len = len.wrapping_add(1);
    };
    for part in ip.octets() {
        if part >= 100 {
            put(b'0'.wrapping_add(part / 100));
        }
        if part >= 10 {
            put(b'0'.wrapping_add(part / 10 % 10));
        }
        put(b'0'.wrapping_add(part % 10));
        put(b'.');
    }
    line.extend_from_slice(text.get(..len.saturating_sub(1)).unwrap_or_default());
}

pub(crate) fn push_address(line: &mut Vec<u8>, address: SocketAddr) {
    let IpAddr::V4(ip) = address.ip() else { return push_display(line, address) };
    push_ip(line, ip.into());
    line.push(b':');
    push_number(line, address.port().into());
}

// Text is bytes here: those that are all plain need no check that they are UTF-8, and what is not UTF-8 is replaced.

fn shown(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(text)
}

/// Appends the text as [`Value`] does: escaped, and quoted if it could be confused with the surrounding text.
pub(crate) fn push_value(line: &mut Vec<u8>, text: &[u8]) {
    let is_bare = |b: u8| matches!(b, b'!'..=b'~') & !matches!(b, b'"' | b'=' | b'\\');
    if text.is_empty() || text == b"-" || !are_all(text, is_bare) {
        return push_display(line, Value(&shown(text)));
    }
    line.extend_from_slice(text);
}

/// Appends the text as [`Quoted`] does.
pub(crate) fn push_quoted(line: &mut Vec<u8>, text: &[u8]) {
    if !are_all(text, is_plain) {
        return push_display(line, Quoted(&shown(text)));
    }
    push_in_quotes(line, text);
}

/// Appends the text as [`Quoted`] does, without the quotes.
pub(crate) fn push_within_quotes(line: &mut Vec<u8>, text: &[u8]) {
    if are_all(text, is_plain) {
        return line.extend_from_slice(text);
    }
    let quoted = Quoted(&shown(text)).to_string();
    let within = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    line.extend_from_slice(within.unwrap_or_default().as_bytes());
}

/// Appends the text as [`JsonText`] does.
pub(crate) fn push_json(line: &mut Vec<u8>, text: Option<&[u8]>) {
    match text {
        None => line.extend_from_slice(b"null"),
        Some(text) if are_all(text, is_plain) => push_in_quotes(line, text),
        Some(text) => push_display(line, JsonText(Some(&shown(text)))),
    }
}

fn push_in_quotes(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    line.extend_from_slice(text);
    line.push(b'"');
}

/// Whether a byte is the same within quotes, in a line and in JSON.
fn is_plain(b: u8) -> bool {
    matches!(b, b' '..=b'~') & !matches!(b, b'"' | b'\\')
}

/// Does not stop early, so that the compiler can vectorize the loop.
#[inline]
fn are_all(text: &[u8], is: impl Fn(u8) -> bool) -> bool {
    text.iter().fold(true, |all, b| all & is(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check};

    fn line(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = b"a ".to_vec();
        push(&mut line);
        String::from_utf8(line).unwrap().split_off(2)
    }

    #[test]
    fn numbers_and_addresses_are_as_they_display() {
        for number in [0, 1, 9, 10, 99, 100, 65_535, u64::MAX - 1, u64::MAX] {
            assert_eq!(line(|line| push_number(line, number)), number.to_string());
        }
        assert_eq!(line(|line| push_digits::<3>(line, 7)), "007");
        assert_eq!(line(|line| push_digits::<3>(line, 1_230)), "230");
        for text in ["127.0.0.1:80", "0.0.0.0:0", "255.10.9.100:65535", "[::1]:8001", "[2001:db8::17]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(line(|line| push_address(line, address)), text);
            assert_eq!(line(|line| push_ip(line, address.ip())), address.ip().to_string());
        }
    }

    #[test]
    fn texts_are_as_they_display_whatever_they_have() {
        let same = |text: &str| {
            assert_eq!(line(|line| push_value(line, text.as_bytes())), Value(text).to_string());
            assert_eq!(line(|line| push_quoted(line, text.as_bytes())), Quoted(text).to_string());
            let within = line(|line| push_within_quotes(line, text.as_bytes()));
            assert_eq!(format!("\"{within}\""), Quoted(text).to_string());
            assert_eq!(line(|line| push_json(line, Some(text.as_bytes()))), JsonText(Some(text)).to_string());
        };
        (0..=0x2_0000).filter_map(char::from_u32).for_each(|c| same(&format!("a{c}b")));
        ["", "-", "--", "a=b", "\"", "\\", "curl/8 (x)", "/ü", &"/a".repeat(100)].into_iter().for_each(same);
        assert_eq!(line(|line| push_json(line, None)), "null");
        check(CASES, BYTES, |u| {
            let sent = bytes(u, 0..=40)?;
            let text = String::from_utf8_lossy(&sent);
            same(&text);
            assert_eq!(line(|line| push_value(line, &sent)), Value(&text).to_string());
            assert_eq!(line(|line| push_quoted(line, &sent)), Quoted(&text).to_string());
            assert_eq!(line(|line| push_json(line, Some(&sent))), JsonText(Some(&text)).to_string());
            Ok(())
        });
    }

    #[test]
    fn a_line_begins_empty_within_another_too() {
        with_line(|outer| {
            push_number(outer, 1);
            with_line(|inner| {
                push_number(inner, 2);
                assert_eq!(inner, b"2");
            });
            assert_eq!(outer, b"1");
        });
        with_line(|next| assert!(next.is_empty()));
    }
}
