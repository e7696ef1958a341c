// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's command line, the same on all machines but for what the machine is.

use crate::MachineSpec;

/// Returns the command line for the guest that `spec` describes. `reboot` is how the
/// machine resets (the `reboot=` parameter), `own` are further words for this machine.
/// The parameters: Documentation/admin-guide/kernel-parameters.txt.
///
/// `loglevel=5` prints warnings and worse, which all reports of the kernel's checkers
/// are; ordinary boot messages would cost a tenth of a second of emulated serial line.
/// `nr_uarts=1` skips the probing of serial lines that do not exist. `no_timer_check`
/// skips a test that counts timer interrupts within a few milliseconds: an emulator that
/// shares its CPUs with other work can be late, and the kernel would panic.
pub(crate) fn kernel(spec: &MachineSpec, reboot: &str, own: &[String]) -> String {
    let mut words = [
        "console=ttyS0",
        "loglevel=5",
        "panic=-1",
        &format!("reboot={reboot}"),
        "8250.nr_uarts=1",
        "no_timer_check",
        "random.trust_cpu=on",
        "cryptomgr.notests",
    ]
    .map(String::from)
    .to_vec();
    words.extend(own.iter().cloned());
    words.extend(spec.cmdline.iter().cloned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_words_come_last() {
        let mut spec = MachineSpec::new("/k", "/run");
        spec.cmdline = vec!["loglevel=7".into()];
        let line = kernel(&spec, "t", &["tsc=reliable".into()]);
        assert!(line.ends_with(" tsc=reliable loglevel=7"), "{line}");
    }
}
