//! A line of the control socket: a word and `key=value` pairs, percent-encoded.

use serde_json::{Map, Value};

#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub word: String,
    fields: Vec<(String, String)>,
}

impl Line {
    pub fn parse(line: &str) -> Line {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let word = words.next().unwrap_or_default().to_owned();
        let field = |pair: &str| pair.split_once('=').map(|(key, value)| (key.to_owned(), decode(value)));
        Line { word, fields: words.filter_map(field).collect() }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The fields as JSON: numbers as numbers, other values as strings.
    pub fn to_json(&self) -> Map<String, Value> {
        self.fields().map(|(key, value)| (key.to_owned(), json(value))).collect()
    }
}

fn json(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
}

/// Undoes percent-encoding; malformed parts stay unchanged.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    // The path of a request may contain control sequences of terminals.
    let text = String::from_utf8_lossy(&bytes);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_word_and_its_pairs() {
        let line = Line::parse("ok pid=812 phase=handing%20over path=/a%3Db odd x=%zz%4");
        assert_eq!((line.word.as_str(), line.number("pid")), ("ok", Some(812)));
        assert_eq!((line.get("phase"), line.get("path")), (Some("handing over"), Some("/a=b")));
        assert_eq!((line.get("odd"), line.get("x")), (None, Some("%zz%4")));
        assert_eq!(Line::parse("").word, "");
    }

    #[test]
    fn nothing_in_a_value_reaches_the_terminal_as_a_command() {
        assert_eq!(Line::parse("handler path=/%1B%5B2J%0Aok").get("path"), Some("/\u{fffd}[2J\u{fffd}ok"));
    }
}
