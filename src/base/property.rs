//! Property tests. A property draws its inputs from random bytes, by `arbitrary`.
//!
//! A failed check prints its seed; `ARBTEST_SEED=0x... cargo test NAME` repeats it. `PROPERTY_CASES=4` is for slow machines:
//! the most cases of each property.
//!
//! Not proptest: its dependencies took a third of the build of an example. Not the search of arbtest, which runs for a time
//! instead of a number of cases, and so checks least on a busy machine.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::ops::RangeInclusive;

use arbtest::arbitrary::{Result, Unstructured};
use arbtest::arbtest;

/// How often a property is checked, unless there is a reason for another number.
pub(crate) const CASES: u32 = 256;

/// Random bytes for each case, unless its input is larger: a value that is drawn after their end is the least of its kind.
pub(crate) const BYTES: u32 = 16 << 10;

/// Checks a property with random inputs. It panics if it does not hold.
pub(crate) fn check(cases: u32, bytes: u32, mut property: impl FnMut(&mut Unstructured<'_>) -> Result<()>) {
    if std::env::var_os("ARBTEST_SEED").is_some() {
        return arbtest(property).run();
    }
    let most = std::env::var("PROPERTY_CASES").map_or(u32::MAX, |most| most.parse().expect("a number"));
    for _ in 0..cases.min(most) {
        let random = RandomState::new().build_hasher().finish();
        // As arbtest has its seeds, so that one number repeats a case.
        arbtest(&mut property).seed(random << 32 | u64::from(bytes)).run();
    }
}

/// Between so many items and so many.
pub(crate) fn list<T>(
    u: &mut Unstructured<'_>,
    len: RangeInclusive<usize>,
    mut item: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let len = u.int_in_range(len)?;
    (0..len).map(|_| item(u)).collect()
}

/// Any bytes.
pub(crate) fn bytes(u: &mut Unstructured<'_>, len: RangeInclusive<usize>) -> Result<Vec<u8>> {
    list(u, len, |u| u.arbitrary())
}

/// A text of the characters of these ranges.
pub(crate) fn text(
    u: &mut Unstructured<'_>,
    len: RangeInclusive<usize>,
    of: &[RangeInclusive<char>],
) -> Result<String> {
    let of: Vec<char> = of.iter().cloned().flatten().collect();
    Ok(list(u, len, |u| u.choose(&of).copied())?.into_iter().collect())
}

/// A text without control characters: half of it ASCII.
pub(crate) fn printable(u: &mut Unstructured<'_>) -> Result<String> {
    let chars = list(u, 0..=40, |u| match u.arbitrary()? {
        true => Ok(char::from(u.int_in_range(b' '..=b'~')?)),
        false => u.arbitrary::<char>(),
    })?;
    Ok(chars.into_iter().filter(|c| !c.is_control()).collect())
}

/// `input` cut into at most this many pieces and one, some of them empty: where each ends.
pub(crate) fn cuts(u: &mut Unstructured<'_>, len: usize, most: usize) -> Result<Vec<usize>> {
    let mut cuts = list(u, 0..=most, |u| u.int_in_range(0..=len))?;
    cuts.push(len);
    cuts.sort_unstable();
    Ok(cuts)
}
