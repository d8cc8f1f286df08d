//! Which vector instructions the processor has.
//!
//! One binary runs everywhere, so each kernel is compiled three times, and the best that the processor can run is
//! chosen.

use std::sync::OnceLock;

/// A set of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    Avx512,
    Avx2,
    Baseline,
}

impl Isa {
    /// The best that this processor has.
    pub(super) fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                Self::Avx512
            } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                Self::Avx2
            } else {
                Self::Baseline
            }
        })
    }
}

/// Defines `$name`, which runs `$kernel` compiled for the instructions that are asked for.
macro_rules! for_each_isa {
    ($name:ident = $($kernel:ident)::+, ($($argument:ident: $type:ty),*)) => {
        fn $name<T: Real>(isa: Isa, $($argument: $type),*) {
            #[target_feature(enable = "avx512f,avx512dq,fma")]
            fn avx512<T: Real>($($argument: $type),*) {
                $($kernel)::+::<T, true>($($argument),*);
            }
            #[target_feature(enable = "avx2,fma")]
            fn avx2<T: Real>($($argument: $type),*) {
                $($kernel)::+::<T, true>($($argument),*);
            }
            match isa {
                // SAFETY: `Isa::best` found these instructions, or a test did.
                Isa::Avx512 => unsafe { avx512::<T>($($argument),*) },
                // SAFETY: as above.
                Isa::Avx2 => unsafe { avx2::<T>($($argument),*) },
                Isa::Baseline => $($kernel)::+::<T, false>($($argument),*),
            }
        }
    };
}
pub(super) use for_each_isa;
