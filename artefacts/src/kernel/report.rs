// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The places in the code that a report of the kernel names.

/// Maximum number of places of a report.
const MOST: usize = 12;

/// A place in the kernel's code, as it prints it: `function+0x12/0x40`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The name of the function, which several functions may have.
    pub function: String,
    /// Offset of the instruction in the function.
    pub offset: u64,
    /// Size of the function, up to the next one.
    pub size: u64,
    /// True when the instruction itself is meant, false if it is the one after a call.
    pub exact: bool,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            function,
            offset,
            size,
            ..
        } = self;
        write!(f, "{function}+{offset:#x}/{size:#x}")
    }
}

/// Returns the places that a report names, in its order, each once. Addresses that the kernel has
/// found on a stack, and that it marks as possibly not part of a call chain
/// (`? function+0x12/0x40`), are left out, and so are functions that make the report.
pub fn places(report: &[String]) -> Vec<Place> {
    let mut found: Vec<Place> = Vec::new();
    for line in report {
        // In a WARNING or an oops the first place is the faulting instruction; all others are
        // calls.
        let exact = ["RIP: ", "WARNING: ", "kernel BUG "]
            .iter()
            .any(|start| line.contains(start));
        let mut doubted = false;
        for word in line.split([' ', '\t', '(', ')', '[', ']', ',']) {
            let after_doubt = std::mem::replace(&mut doubted, word == "?");
            if after_doubt {
                continue;
            }
            let word = word.strip_prefix("0010:").unwrap_or(word);
            let Some(place) = place(word, exact) else {
                continue;
            };
            let known = found
                .iter()
                .any(|one| one.function == place.function && one.offset == place.offset);
            if !known && !REPORTERS.contains(&place.function.as_str()) {
                found.push(place);
            }
        }
    }
    found.truncate(MOST);
    found
}

/// Functions that make reports, and are therefore on the stack of each report.
const REPORTERS: [&str; 14] = [
    "dump_stack",
    "dump_stack_lvl",
    "show_stack",
    "print_report",
    "print_address_description.constprop.0",
    "kasan_report",
    "check_noncircular",
    "print_circular_bug",
    "lockdep_rcu_suspicious",
    "__warn",
    "report_bug",
    "handle_bug",
    "exc_invalid_op",
    "asm_exc_invalid_op",
];

fn place(word: &str, exact: bool) -> Option<Place> {
    let (function, numbers) = word.split_once("+0x")?;
    let (offset, size) = numbers.split_once("/0x")?;
    let named = !function.is_empty()
        && function
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte));
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let place = Place {
        function: function.into(),
        offset: number(offset)?,
        size: number(size)?,
        exact,
    };
    (named && place.offset <= place.size).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(report: &str) -> Vec<String> {
        let lines: Vec<_> = report.lines().map(str::to_owned).collect();
        places(&lines)
            .iter()
            .map(|place| format!("{place}{}", if place.exact { " exactly" } else { "" }))
            .collect()
    }

    #[test]
    fn an_oops_is_at_its_instruction_and_its_callers() {
        let report = "\
[    2.104321] Oops: invalid opcode: 0000 [#1] SMP NOPTI
[    2.105012] CPU: 0 UID: 0 PID: 71 Comm: make Not tainted 6.12.117-crucible #1
[    2.106100] RIP: 0010:ckpt_vfork_wait+0x0/0xd0
[    2.106800] Code: 0f 0b 49 89 f4 55 65 48 8b 2d 32 cf f4 7e 53
[    2.107009] RSP: 0018:ffff888002e7fda0 EFLAGS: 00000246
[    2.110000] Call Trace:
[    2.110100]  <TASK>
[    2.110200]  ? die+0x2d/0x70
[    2.110300]  go_to_site+0x1b9/0x2a0
[    2.110400]  restart_return.isra.0+0x12/0x40
[    2.110500]  </TASK>
[    2.110600] RIP: 0033:0x7f3d1c0d5a67
[    2.110700] ---[ end trace 0000000000000000 ]---
[    2.110800] RIP: 0010:ckpt_vfork_wait+0x0/0xd0";
        let expected = [
            "ckpt_vfork_wait+0x0/0xd0 exactly",
            "go_to_site+0x1b9/0x2a0",
            "restart_return.isra.0+0x12/0x40",
        ];
        assert_eq!(texts(report), expected);
    }

    #[test]
    fn a_kasan_report_is_at_the_access_and_where_the_memory_came_from() {
        let report = "\
[   12.0][   T71] ==================================================================
[   12.0][   T71] BUG: KASAN: slab-use-after-free in ckpt_read_obj+0x1f2/0x3a0
[   12.0][   T71] Read of size 8 at addr ffff888004a3c210 by task restart/71
[   12.0][   T71] Call Trace:
[   12.0][   T71]  <TASK>
[   12.0][   T71]  dump_stack_lvl+0x68/0x90
[   12.0][   T71]  print_report+0xd0/0x620
[   12.0][   T71]  kasan_report+0xcf/0x100
[   12.0][   T71]  ckpt_read_obj+0x1f2/0x3a0
[   12.0][   T71]  do_restart+0x4a/0x120
[   12.0][   T71] Freed by task 71:
[   12.0][   T71]  kfree+0x100/0x340";
        let expected = [
            "ckpt_read_obj+0x1f2/0x3a0",
            "do_restart+0x4a/0x120",
            "kfree+0x100/0x340",
        ];
        assert_eq!(texts(report), expected);
    }

    #[test]
    fn a_lockdep_report_is_at_the_locks() {
        let report = "\
[    9.0] WARNING: possible circular locking dependency detected
[    9.0] restart/80 is trying to acquire lock:
[    9.0] ffff888003c0a4b8 (&mm->mmap_lock){++++}-{4:4}, at: ckpt_map+0x55/0x1c0
[    9.0] but task is already holding lock:
[    9.0] ffffffff82c5e2a0 (&ctx->lock){+.+.}-{4:4}, at: do_restart+0x31/0x120
[    9.0] -> #1 (&ctx->lock){+.+.}-{4:4}:
[    9.0]        __mutex_lock+0xa3/0x9c0
[    9.0]        dump_stack_lvl+0x68/0x90";
        let expected = [
            "ckpt_map+0x55/0x1c0",
            "do_restart+0x31/0x120",
            "__mutex_lock+0xa3/0x9c0",
        ];
        assert_eq!(texts(report), expected);
    }

    #[test]
    fn a_hung_task_is_where_it_sleeps() {
        let report = "\
[  243.1] INFO: task restart:80 blocked for more than 122 seconds.
[  243.1]       Not tainted 6.12.117-crucible-debug #1
[  243.1] task:restart         state:D stack:25432 pid:80    tgid:80    ppid:1      flags:0x00004002
[  243.1] Call Trace:
[  243.1]  <TASK>
[  243.1]  __schedule+0x8b5/0x1a10
[  243.1]  ? __pfx___schedule+0x10/0x10
[  243.1]  schedule+0x5a/0x130
[  243.1]  do_restart+0x7c/0x120";
        let expected = [
            "__schedule+0x8b5/0x1a10",
            "schedule+0x5a/0x130",
            "do_restart+0x7c/0x120",
        ];
        assert_eq!(texts(report), expected);
    }

    #[test]
    fn a_warning_and_a_leak_have_places_and_other_lines_none() {
        let warning = "[ 1.0] WARNING: CPU: 0 PID: 1 at ckpt_put+0x12/0x40\n[ 1.0] RIP: 0010:ckpt_put+0x12/0x40";
        assert_eq!(texts(warning), ["ckpt_put+0x12/0x40 exactly"]);
        let leak = "    [<00000000a2b5c1d9>] kvmalloc_node+0x6f/0xd0\n    ckpt_alloc+0x21/0x50";
        assert_eq!(
            texts(leak),
            ["kvmalloc_node+0x6f/0xd0", "ckpt_alloc+0x21/0x50"]
        );
        let others = "a+0x1 b+0x9/0x1 +0x1/0x2 c+0xg/0x1 0x7f+0x1 x/0x40 <bad>+0x1/0x2 a b";
        assert_eq!(texts(others), [""; 0]);
    }
}
