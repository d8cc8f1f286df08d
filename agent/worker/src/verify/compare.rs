//! How far apart two results are.

use anyhow::ensure;
use fleet_common::verify::Check;
use tch::{Device, Kind, Tensor};

/// What is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tolerance {
    /// So much difference.
    Absolute(f64),
    /// So much of the reference's largest value, or an absolute difference of the second number.
    Relative(f64, f64),
    /// None.
    Equal,
}

impl Tolerance {
    /// Of logits and features in f32.
    pub(super) const LOGITS: Self = Self::Absolute(1e-5);
    /// Of embeddings and what is made of them.
    pub(super) const EMBEDDINGS: Self = Self::Relative(1e-4, 1e-7);
    /// Of logits in f64.
    pub(super) const LOGITS_F64: Self = Self::Absolute(1e-10);
    /// Of gradients: what is exactly zero in theory is noise in both.
    pub(super) const GRADIENTS: Self = Self::Relative(1e-4, 1e-6);
    /// Of losses and weights along a trace.
    pub(super) const TRACE: Self = Self::Absolute(1e-4);

    fn allows(self, absolute: f64, relative: f64) -> bool {
        match self {
            Self::Absolute(most) => absolute <= most,
            Self::Relative(most, floor) => relative <= most || absolute <= floor,
            Self::Equal => absolute == 0.0,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Absolute(most) => format!("{most:e} absolute"),
            Self::Relative(most, floor) => format!("{most:e} relative, {floor:e} absolute"),
            Self::Equal => "equal".to_owned(),
        }
    }
}

/// Collects checks.
#[derive(Debug, Default)]
pub(super) struct Checks(Vec<Check>);

impl Checks {
    fn push(&mut self, name: String, absolute: f64, relative: f64, tolerance: Tolerance) {
        let passed = tolerance.allows(absolute, relative);
        let finite = |x: f64| Some(x).filter(|x| x.is_finite());
        let (absolute, relative) = (finite(absolute), finite(relative));
        self.0.push(Check { name, absolute, relative, tolerance: tolerance.words(), passed });
    }

    /// Compares tensors; other shapes are a failure too, and say so.
    pub(super) fn tensors(&mut self, name: impl Into<String>, got: &Tensor, reference: &Tensor, tolerance: Tolerance) {
        let name = name.into();
        if got.size() != reference.size() {
            let name = format!("{name}: expected shape {:?}, found {:?}", reference.size(), got.size());
            return self.push(name, f64::INFINITY, f64::INFINITY, Tolerance::Equal);
        }
        let double = |t: &Tensor| t.detach().to_device(Device::Cpu).to_kind(Kind::Double);
        let (got, reference) = (double(got), double(reference));
        let largest = |t: Tensor| if t.numel() == 0 { 0.0 } else { t.abs().max().double_value(&[]) };
        let (absolute, scale) = (largest(&got - &reference), largest(reference));
        self.push(name, absolute, ratio(absolute, scale), tolerance);
    }

    /// Compares numbers.
    pub(super) fn numbers(&mut self, name: impl Into<String>, got: f64, reference: f64, tolerance: Tolerance) {
        let absolute = (got - reference).abs();
        self.push(name.into(), absolute, ratio(absolute, reference.abs()), tolerance);
    }

    /// Compares what must be the same; says how it differs.
    pub(super) fn equal<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, got: &T, reference: &T) {
        let (name, difference) = if got == reference {
            (name.to_owned(), 0.0)
        } else {
            (format!("{name}: expected {reference:?}, found {got:?}"), f64::INFINITY)
        };
        self.push(name, difference, difference, Tolerance::Equal);
    }

    /// All checks.
    ///
    /// # Errors
    /// There are none: a folder that holds nothing to compare proves nothing.
    pub(super) fn done(self) -> anyhow::Result<Vec<Check>> {
        ensure!(!self.0.is_empty(), "the folder holds nothing to compare");
        Ok(self.0)
    }
}

fn ratio(absolute: f64, scale: f64) -> f64 {
    if absolute == 0.0 { 0.0 } else { absolute / scale }
}
