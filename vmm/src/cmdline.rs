// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's command line. All machines share it except for the parameters of their platform.

use crate::MachineSpec;

/// Returns the command line for the guest that `spec` describes. `reboot` selects how the machine
/// resets (the `reboot=` parameter); `own` lists additional parameters of this machine. The
/// parameters are described in Documentation/admin-guide/kernel-parameters.txt.
///
/// `loglevel=5` prints warnings and more severe messages, which includes all reports of the
/// kernel's checkers; ordinary boot messages would cost a tenth of a second of emulated serial
/// line. `nr_uarts=1` skips probing serial ports that do not exist. `no_timer_check` skips a test
/// that counts timer interrupts within a few milliseconds: an emulator that shares its CPUs with
/// other work can be late, and the kernel would panic.
pub(crate) fn kernel(spec: &MachineSpec, reboot: &str, own: &[String]) -> String {
    let mut parameters = [
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
    parameters.extend(own.iter().cloned());
    parameters.extend(spec.cmdline.iter().cloned());
    parameters.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_parameters_come_last() {
        let mut spec = MachineSpec::new("/k", "/run");
        spec.cmdline = vec!["loglevel=7".into()];
        let line = kernel(&spec, "t", &["tsc=reliable".into()]);
        assert!(line.ends_with(" tsc=reliable loglevel=7"), "{line}");
    }
}
