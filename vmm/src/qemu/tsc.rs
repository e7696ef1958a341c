// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Measures the rate of the time-stamp counter (TSC), for the guest.
//!
//! A guest calibrates its TSC against an emulated timer at boot. On a busy host the timer is late,
//! the guest finds no rate that it trusts, and falls back to a clock of 4 ms ticks. Under emulation
//! the guest's TSC is the host's, so the rate is measured on the host, where a measurement can be
//! repeated, and passed to the guest.

use std::sync::LazyLock;

/// Returns the kernel parameters for the rate, or `None` if the measurements do not agree: then the
/// guest calibrates the TSC itself.
pub(super) fn kernel_parameters() -> Vec<String> {
    match *KILOHERTZ {
        Some(khz) => vec![format!("tsc_early_khz={khz}"), "tsc=reliable".into()],
        None => Vec::new(),
    }
}

static KILOHERTZ: LazyLock<Option<u64>> = LazyLock::new(measure);

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<u64> {
    None
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<u64> {
    use std::thread::sleep;
    use std::time::Duration;

    /// Duration of one measurement.
    const INTERVAL: Duration = Duration::from_millis(20);

    let samples: Vec<_> = (0..3)
        .map(|turn| {
            if turn > 0 {
                sleep(INTERVAL);
            }
            sample()
        })
        .collect();
    agree(rate(samples[0], samples[1])?, rate(samples[1], samples[2])?)
}

/// A point in time: nanoseconds, and the TSC.
#[derive(Clone, Copy)]
struct Sample {
    nanos: u64,
    ticks: u64,
}

/// Reads the clock and the TSC together. Of several attempts, the one with the shortest time
/// between its two TSC reads is used.
#[cfg(target_arch = "x86_64")]
fn sample() -> Sample {
    use std::arch::x86_64::_rdtsc;
    use std::time::Instant;

    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let mut best = (u64::MAX, Sample { nanos: 0, ticks: 0 });
    for _ in 0..64 {
        // SAFETY: every x86-64 CPU has the instruction, and user space may execute it unless
        // prctl(PR_SET_TSC) has disabled it, which this program does not do.
        let before = unsafe { _rdtsc() };
        let nanos = ORIGIN.elapsed().as_nanos() as u64;
        // SAFETY: as above.
        let after = unsafe { _rdtsc() };
        let width = after.wrapping_sub(before);
        if width < best.0 {
            let ticks = before.wrapping_add(width / 2);
            best = (width, Sample { nanos, ticks });
        }
    }
    best.1
}

/// Returns the rate in ticks per millisecond.
fn rate(from: Sample, to: Sample) -> Option<u64> {
    let nanos = to.nanos.checked_sub(from.nanos)?;
    let ticks = to.ticks.checked_sub(from.ticks)?;
    u64::try_from(u128::from(ticks) * 1_000_000 / u128::from(nanos).max(1)).ok()
}

/// Returns the mean of both rates, if they differ by at most 0.1 %.
fn agree(a: u64, b: u64) -> Option<u64> {
    (a > 0 && a.abs_diff(b) <= a / 1000).then_some(a.midpoint(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_counter_has_a_rate() {
        let at = |nanos, ticks| Sample { nanos, ticks };
        assert_eq!(
            rate(at(0, 100), at(20_000_000, 48_000_100)),
            Some(2_400_000)
        );
        assert_eq!(rate(at(0, 100), at(20_000_000, 50)), None);
    }

    #[test]
    fn measurements_that_differ_are_not_used() {
        assert_eq!(agree(2_400_000, 2_400_200), Some(2_400_100));
        assert_eq!(agree(2_400_000, 2_500_000), None);
        assert_eq!(agree(0, 0), None);
    }
}
