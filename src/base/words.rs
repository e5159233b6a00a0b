//! Lines of `key=value` words, as processes of a service write them to each other.

/// The pairs of a line, in order. Words without `=` are skipped, such as the name of a message at its start.
pub(crate) fn pairs(line: &str) -> Vec<(&str, &str)> {
    line.split(' ').filter_map(|word| word.split_once('=')).collect()
}

/// The value of the first pair with this key.
pub(crate) fn value_of<'l>(pairs: &[(&str, &'l str)], key: &str) -> Option<&'l str> {
    pairs.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_a_line() {
        let table: [(&str, &[(&str, &str)]); 4] = [
            ("", &[]),
            ("NAME", &[]),
            ("NAME a=1 b= c", &[("a", "1"), ("b", "")]),
            ("a=b=c  a=2", &[("a", "b=c"), ("a", "2")]),
        ];
        for (line, expected) in table {
            assert_eq!(pairs(line), expected, "{line}");
        }
    }

    #[test]
    fn the_first_of_a_key_counts() {
        let pairs = pairs("NAME a=1 b=2 a=3");
        assert_eq!(["a", "b", "NAME"].map(|key| value_of(&pairs, key)), [Some("1"), Some("2"), None]);
    }
}
