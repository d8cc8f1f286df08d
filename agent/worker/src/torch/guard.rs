//! The border between tch's panics and our errors.
//!
//! Model code uses tch's plain operators, which panic when libtorch throws. That keeps a forward pass readable as
//! mathematics; the price is that whoever runs one must catch. This is the only place that does, besides the
//! callback of a [`super::Function`], which must not unwind into C++.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::TorchError;

/// How a panic of tch begins: it unwraps what libtorch threw.
const TORCH: &str = "called `Result::unwrap()` on an `Err` value: Torch(\"";

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// Where the latest panic that was kept quiet came from.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs `f`, turning a panic (tch's way to report a libtorch exception) into an error.
///
/// Whether the failure was out-of-memory is the allocator's to say, not the message's: see [`super::memory`].
///
/// # Errors
/// The message of the panic.
pub fn guard<T>(f: impl FnOnce() -> T) -> Result<T, TorchError> {
    caught(f).map_err(TorchError)
}

/// The same with the bare message, for the border to C++.
pub(super) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    quiet_while_guarded();
    let outer = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(outer);
    outcome.map_err(|panic| panic_message(panic.as_ref()))
}

/// A caught panic is reported by whoever caught it; printing it as well would look like a crash.
fn quiet_while_guarded() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                PLACE.set(info.location().map(ToString::to_string));
            } else {
                loud(info);
            }
        }));
    });
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    match (text.strip_prefix(TORCH), PLACE.take()) {
        // Where tch's wrapper of an operator stands says nothing; the message does.
        (Some(text), _) => first_lines(text),
        (None, Some(place)) => format!("{text} (at {place})"),
        (None, None) => text.to_owned(),
    }
}

/// tch's panics carry libtorch's C++ back-trace; the first line says what happened.
fn first_lines(text: &str) -> String {
    text.split("\\nException raised from").next().unwrap_or(text).replace("\\n", "\n").trim_end().to_owned()
}
