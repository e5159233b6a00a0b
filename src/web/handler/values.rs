//! The values of a route's parameters.

/// Values as one text: an allocation for each would cost more than its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    text: String,
    len: usize,
    /// Where the first values begin and end in the text: each begins where the one before ends.
    bounds: [usize; FIRST + 1],
    /// Where each further value ends.
    further: Vec<usize>,
}

/// Few routes have more parameters.
const FIRST: usize = 4;

impl Values {
    /// Room for so many values of so many bytes in all.
    pub(crate) fn with_room(values: usize, bytes: usize) -> Values {
        let text = if values > 0 { String::with_capacity(bytes) } else { String::new() };
        Values { text, further: Vec::with_capacity(values.saturating_sub(FIRST)), ..Values::default() }
    }

    pub(crate) fn push(&mut self, value: &str) {
        self.text.push_str(value);
        self.len = self.len.saturating_add(1);
        match self.bounds.get_mut(self.len) {
            Some(end) => *end = self.text.len(),
            None => self.further.push(self.text.len()),
        }
    }

    /// None if there are no values.
    pub(crate) fn some(self) -> Option<Values> {
        (self.len > 0).then_some(self)
    }

    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<&str> {
        if at >= self.len {
            return None;
        }
        self.text.get(self.bound(at)..self.bound(at.saturating_add(1)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        (0..self.len).filter_map(|at| self.get(at))
    }

    /// Bytes on the heap.
    pub(crate) fn held(&self) -> usize {
        self.text.capacity()
    }

    #[inline]
    fn bound(&self, at: usize) -> usize {
        let further = || self.further.get(at.saturating_sub(FIRST + 1));
        self.bounds.get(at).or_else(further).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_found_however_many_there_are() {
        let all = ["a", "", "Jø", "/x/y", "0", "", "last"];
        for n in 0..=all.len() {
            let mut values = Values::with_room(n, 3);
            all.iter().take(n).for_each(|value| values.push(value));
            assert_eq!(values.clone().some().is_none(), n == 0);
            assert!(values.iter().eq(all.into_iter().take(n)), "{values:?}");
            assert_eq!(values.get(n), None);
            assert!((0..n).all(|at| values.get(at) == Some(all[at])), "{values:?}");
        }
    }
}
