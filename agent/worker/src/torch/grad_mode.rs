//! Whether operations record gradients, per thread.

/// Restores the previous mode when dropped, also while a panic passes by; `tch::no_grad` and `tch::with_grad` do not,
/// and a caught failure would leave the thread in the wrong mode.
#[derive(Debug)]
#[must_use = "the mode lasts as long as this value"]
pub struct GradMode {
    previous: bool,
}

impl GradMode {
    /// Operations record gradients while this lives.
    pub fn on() -> Self {
        Self::set(true)
    }

    /// Operations record nothing while this lives.
    pub fn off() -> Self {
        Self::set(false)
    }

    /// Whether operations record gradients now.
    pub fn is_on() -> bool {
        Self::on().previous
    }

    fn set(enabled: bool) -> Self {
        // SAFETY: sets a thread-local flag and returns its old value.
        let previous = unsafe { torch_sys::at_grad_set_enabled(i32::from(enabled)) } != 0;
        Self { previous }
    }
}

impl Drop for GradMode {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { torch_sys::at_grad_set_enabled(i32::from(self.previous)) };
    }
}
