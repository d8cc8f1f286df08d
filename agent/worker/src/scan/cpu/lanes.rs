//! Sixteen channels at a time: the arithmetic of the kernels, written so that the compiler makes vector instructions of
//! it (one register of AVX-512, two of AVX2).

/// Channels that are computed side by side.
pub(super) const WIDTH: usize = 16;

/// A number that the kernels compute with.
pub(super) trait Real:
    Copy
    + Send
    + Sync
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
    const ZERO: Self;
    fn of(x: f64) -> Self;
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// 2 to the power of each lane; what is below the smallest normal number becomes about that.
    fn exp2<const FMA: bool>(x: [Self; WIDTH]) -> [Self; WIDTH];
    /// ln(1 + u) of each lane, for u in [0, 1].
    fn ln_1p<const FMA: bool>(u: [Self; WIDTH]) -> [Self; WIDTH];
}

impl Real for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self::mul_add(self, b, c)
    }

    /// x = k + f with k whole and f in [-½, ½]; 2^f by Cephes' polynomial for `exp2f` (relative error below 1.2e-7),
    /// and k added to the exponent.
    #[inline(always)]
    fn exp2<const FMA: bool>(x: [Self; WIDTH]) -> [Self; WIDTH] {
        // Added to a small number, it leaves the nearest whole number in the low bits.
        const ROUND: f32 = 12_582_912.0; // 1.5·2²³
        const POLYNOMIAL: [f64; 6] = [
            1.535_336_188_319_5e-4,
            1.339_887_440_266_574e-3,
            9.618_437_357_674_64e-3,
            5.550_332_471_162_809e-2,
            2.402_264_791_363_012e-1,
            0.693_147_202_855_042,
        ];
        let mut y = [0.0; WIDTH];
        for l in 0..WIDTH {
            // Written so that what is not a number stays so.
            let x = if x[l] < -126.0 { -126.0 } else { x[l] };
            let x = if x > 126.0 { 126.0 } else { x };
            let shifted = x + ROUND;
            let f = x - (shifted - ROUND);
            let mut p = POLYNOMIAL[0] as f32;
            for coefficient in &POLYNOMIAL[1..] {
                p = fused::<_, FMA>(p, f, *coefficient as f32);
            }
            let p = fused::<_, FMA>(p, f, 1.0);
            y[l] = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
        }
        y
    }

    /// 2·artanh(s) with s = u / (2 + u) in [0, ⅓], by its series; the first term left out is below 2e-9 of the result.
    #[inline(always)]
    fn ln_1p<const FMA: bool>(u: [Self; WIDTH]) -> [Self; WIDTH] {
        const SERIES: [f32; 7] = [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
        let mut y = [0.0; WIDTH];
        for l in 0..WIDTH {
            let s = u[l] / (2.0 + u[l]);
            let square = s * s;
            let mut p = 1.0 / 15.0;
            for coefficient in SERIES {
                p = fused::<_, FMA>(p, square, coefficient);
            }
            y[l] = 2.0 * s * p;
        }
        y
    }
}

/// Used where results are proven, not where models train: the system's functions, lane by lane.
impl Real for f64 {
    const ZERO: Self = 0.0;

    fn of(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self::mul_add(self, b, c)
    }

    fn exp2<const FMA: bool>(x: [Self; WIDTH]) -> [Self; WIDTH] {
        x.map(Self::exp2)
    }

    fn ln_1p<const FMA: bool>(u: [Self; WIDTH]) -> [Self; WIDTH] {
        u.map(Self::ln_1p)
    }
}

/// a·b + c, rounded once where the processor does that in one instruction (elsewhere it would be a slow function).
#[inline(always)]
fn fused<T: Real, const FMA: bool>(a: T, b: T, c: T) -> T {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sixteen numbers.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Lanes<T>([T; WIDTH]);

macro_rules! lane_by_lane {
    ($($trait:ident $name:ident $op:tt),*) => {$(
        impl<T: Real> std::ops::$trait for Lanes<T> {
            type Output = Self;
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                let mut y = self.0;
                for l in 0..WIDTH {
                    y[l] = y[l] $op other.0[l];
                }
                Self(y)
            }
        }
    )*};
}
lane_by_lane!(Add add +, Sub sub -, Mul mul *, Div div /);

impl<T: Real> Lanes<T> {
    pub(super) const ZERO: Self = Self([T::ZERO; WIDTH]);

    #[inline(always)]
    pub(super) fn splat(x: T) -> Self {
        Self([x; WIDTH])
    }

    #[inline(always)]
    pub(super) fn constant(x: f64) -> Self {
        Self::splat(T::of(x))
    }

    /// The first sixteen of `from`; zeros where there are fewer.
    #[inline(always)]
    pub(super) fn load(from: &[T]) -> Self {
        if let Some(whole) = from.first_chunk::<WIDTH>() {
            return Self(*whole);
        }
        let mut y = [T::ZERO; WIDTH];
        y[..from.len()].copy_from_slice(from);
        Self(y)
    }

    /// Into the first sixteen of `to`, or into as many as there are.
    #[inline(always)]
    pub(super) fn store(self, to: &mut [T]) {
        if let Some(whole) = to.first_chunk_mut::<WIDTH>() {
            *whole = self.0;
            return;
        }
        let n = to.len();
        to.copy_from_slice(&self.0[..n]);
    }

    /// self·b + c.
    #[inline(always)]
    pub(super) fn fma<const FMA: bool>(self, b: Self, c: Self) -> Self {
        let mut y = c.0;
        for ((y, a), b) in y.iter_mut().zip(self.0).zip(b.0) {
            *y = fused::<T, FMA>(a, b, *y);
        }
        Self(y)
    }

    #[inline(always)]
    pub(super) fn exp2<const FMA: bool>(self) -> Self {
        Self(T::exp2::<FMA>(self.0))
    }

    /// ln(1 + eˣ), without overflow.
    #[inline(always)]
    pub(super) fn softplus<const FMA: bool>(self) -> Self {
        let (mut positive, mut falling) = (self.0, self.0);
        for l in 0..WIDTH {
            let x = self.0[l];
            positive[l] = if x < T::ZERO { T::ZERO } else { x };
            falling[l] = if x < T::ZERO { x } else { T::ZERO - x };
        }
        let u = (Self(falling) * Self::constant(std::f64::consts::LOG2_E)).exp2::<FMA>();
        Self(T::ln_1p::<FMA>(u.0)) + Self(positive)
    }

    /// 1 / (1 + e⁻ˣ).
    #[inline(always)]
    pub(super) fn sigmoid<const FMA: bool>(self) -> Self {
        let one = Self::constant(1.0);
        one / (one + (self * Self::constant(-std::f64::consts::LOG2_E)).exp2::<FMA>())
    }

    /// The sum of all lanes, in an order that does not depend on the processor.
    #[inline(always)]
    pub(super) fn sum(self) -> T {
        let mut y = self.0;
        let mut half = WIDTH / 2;
        while half > 0 {
            for l in 0..half {
                y[l] = y[l] + y[l + half];
            }
            half /= 2;
        }
        y[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors<const FMA: bool>(
        ours: fn([f32; WIDTH]) -> [f32; WIDTH],
        exact: fn(f64) -> f64,
        from: f32,
        to: f32,
    ) -> f64 {
        let steps = 100_000;
        let mut worst = 0f64;
        for i in 0..steps / WIDTH {
            let x: [f32; WIDTH] = std::array::from_fn(|l| from + (to - from) * ((i * WIDTH + l) as f32 / steps as f32));
            for (x, y) in x.into_iter().zip(ours(x)) {
                let exact = exact(x.into());
                worst = worst.max((f64::from(y) - exact).abs() / exact.abs().max(f64::from(f32::MIN_POSITIVE)));
            }
        }
        worst
    }

    #[test]
    fn functions_are_as_exact_as_f32_is() {
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        for fma in [false, true] {
            let check = |name: &str, worst: f64, most: f64| assert!(worst < most, "{name}, fma {fma}: {worst:e}");
            macro_rules! on {
                ($f:expr, $g:expr) => {
                    if fma { $f } else { $g }
                };
            }
            let exp2 = on!(<f32 as Real>::exp2::<true>, <f32 as Real>::exp2::<false>);
            check("exp2", errors::<true>(exp2, f64::exp2, -125.0, 125.0), 2e-7);
            let ours = on!(|x| Lanes(x).softplus::<true>().0, |x| Lanes(x).softplus::<false>().0);
            // eˣ is 2 to the power of a product, whose two roundings of 2⁻²⁴ each x takes along: 7e-6 for x = 60.
            check("softplus", errors::<true>(ours, softplus, -60.0, 60.0), 7e-6);
            check("softplus near 0", errors::<true>(ours, softplus, -3.0, 3.0), 5e-7);
            let ours = on!(|x| Lanes(x).sigmoid::<true>().0, |x| Lanes(x).sigmoid::<false>().0);
            check("sigmoid", errors::<true>(ours, |x| 1.0 / (1.0 + (-x).exp()), -60.0, 60.0), 7e-6);
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_ends_are_no_cliffs() {
        let mut x = [0.0f32; WIDTH];
        (x[0], x[1], x[2], x[3]) = (f32::NAN, 200.0, -200.0, 0.0);
        let y = <f32 as Real>::exp2::<false>(x);
        assert!(y[0].is_nan() && y[1] > 1e37 && y[2] < 1e-37 && y[3] == 1.0, "{y:?}");
        let y = Lanes(x).softplus::<false>().0;
        assert!(y[0].is_nan() && y[1] == 200.0 && y[2] < 1e-37, "{y:?}");
        let y = Lanes(x).sigmoid::<false>().0;
        assert!(y[0].is_nan() && y[1] == 1.0 && y[2] < 1e-37, "{y:?}");
    }
}
