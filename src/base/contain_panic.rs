//! Contains panics of the program's code where a value is dropped or a closure runs outside of a handler, and reads their
//! text. The panic of a handler is caught in `web/handler/routes.rs` and logged in `http/exchange/call_handler.rs`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The text of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

/// Runs `code`. If it panics, the payload is dropped, and the payload of that drop's panic, and so on. Each panic is given
/// to `seen`. False if there was one.
pub(crate) fn contain(code: impl FnOnce(), mut seen: impl FnMut(&(dyn Any + Send))) -> bool {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(()) => true,
        Err(panic) => {
            drop_panic(panic, &mut seen);
            false
        }
    }
}

fn drop_panic(panic: Box<dyn Any + Send>, seen: &mut dyn FnMut(&(dyn Any + Send))) {
    let mut outcome = Err(panic);
    while let Err(panic) = outcome {
        seen(&*panic);
        outcome = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    }
}

/// Drops a value of the program's; a panic is ignored.
pub(crate) fn contain_drop<T>(value: T) {
    contain(|| drop(value), |_| ());
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    /// When dropped, panics with a payload of the same type, as often as its number says.
    struct Sore(u32);

    impl Drop for Sore {
        fn drop(&mut self) {
            if let Some(less) = self.0.checked_sub(1) {
                panic_any(Sore(less));
            }
        }
    }

    #[test]
    fn every_panic_in_a_chain_of_drops_is_contained() {
        for panics in 0..4 {
            let mut seen = 0;
            let completed = contain(|| drop(Sore(panics)), |_| seen += 1);
            assert_eq!((completed, seen), (panics == 0, panics));
        }
    }

    #[test]
    fn the_text_of_a_panic_is_known_where_it_is_one() {
        let texts = [
            catch_unwind(|| panic!("plain")),
            catch_unwind(|| panic!("with {}", 1)),
            catch_unwind(|| panic_any(7)),
        ];
        let texts = texts.map(|outcome| panic_text(&*outcome.unwrap_err()).to_owned());
        assert_eq!(texts, ["plain", "with 1", "no text"]);
    }
}
