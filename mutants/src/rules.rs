// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules that exclude code from mutation, with reasons. They go by names and syntax, never by line
//! numbers.

/// Sources of checkpoint and restart that neither save nor restore, with the reason.
pub const LEFT_OUT: [(&str, &str); 4] = [
    ("break.c", "leaves out pieces of code itself"),
    ("log.c", "formats messages"),
    ("proc.c", "shows the sites of tasks to the lab"),
    ("trigger.c", "freezes a cgroup at an event, for the lab"),
];

/// Returns true when a source of the series, a path in the kernel's tree, is mutated.
pub fn is_source(path: &str) -> bool {
    let Some((directory, name)) = path.rsplit_once('/') else {
        return false;
    };
    let ours = directory == "kernel/checkpoint" || path == "arch/x86/kernel/checkpoint.c";
    ours && name.ends_with(".c") && LEFT_OUT.iter().all(|(out, _)| *out != name)
}

/// Returns true for a call that only checks the code around it, or yields the CPU: no program could
/// notice its absence.
pub(crate) fn is_idle(callee: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "lockdep_",
        "might_",
        "BUILD_BUG_ON",
        "WARN",
        "cond_resched",
        "ckpt_fail_",
    ];
    PREFIXES.iter().any(|prefix| callee.starts_with(prefix))
}

/// Returns true for a macro that declares a variable.
pub(crate) fn is_declaration(callee: &str) -> bool {
    callee.starts_with("DEFINE_") || callee.starts_with("DECLARE_")
}

/// Returns true for a call whose arguments from the first string on are a message.
pub(crate) fn is_message(callee: &str) -> bool {
    callee == "ckpt_err" || callee.starts_with("pr_") || callee.starts_with("WARN")
}

/// Returns true for a macro that has the value of its argument.
pub(crate) fn is_transparent(callee: &str) -> bool {
    matches!(callee, "likely" | "unlikely")
}

/// Returns true for a word that a parenthesis and a statement may follow in plain C.
pub(crate) fn is_keyword(word: &str) -> bool {
    matches!(
        word,
        "if" | "while" | "for" | "switch" | "return" | "sizeof" | "typeof"
    )
}

/// Returns true for a word that can be a part of a type's name.
pub(crate) fn is_type(word: &str) -> bool {
    matches!(
        word,
        "unsigned" | "signed" | "char" | "short" | "int" | "long" | "void"
    )
}

/// Words that only concern checkers and the linker.
pub(crate) const ANNOTATIONS: [&str; 12] = [
    "__user",
    "__rcu",
    "__init",
    "__force",
    "__percpu",
    "__iomem",
    "__must_check",
    "__maybe_unused",
    "__always_inline",
    "__cold",
    "noinline",
    "asmlinkage",
];
