// SPDX-License-Identifier: Apache-2.0 OR MIT
use super::*;

const FILE: &str = "kernel/checkpoint/a.c";

fn made(source: &str) -> Generated {
    let sources = BTreeMap::from([(FILE.to_owned(), source.to_owned())]);
    let headers = ["#define container_of(p, t, m) p\n#define QSTR_INIT(n, l) { { .len = l } }\n"];
    generate(&sources, headers).unwrap()
}

/// Returns the rewritten body of a function, without numbers.
fn body(lines: &str) -> String {
    let generated = made(&format!("void f(int a)\n{{\n{lines}\n}}\n"));
    assert_eq!(generated.unread, [""; 0], "{lines}");
    let text = &generated.sources[FILE];
    let text = text.strip_prefix(INCLUDE).unwrap();
    let text = text.strip_prefix("void f(int a)\n{\n").unwrap();
    let text = text.strip_suffix("\n}\n").unwrap();
    // `(7)` and `(7, ` are a mutant's number.
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("ckpt_") {
        let open = at + rest[at..].find('(').unwrap_or_default() + 1;
        plain.push_str(&rest[..open]);
        rest = rest[open..].trim_start_matches(|c: char| c.is_ascii_digit());
        rest = rest.strip_prefix(", ").unwrap_or(rest);
    }
    plain + rest
}

fn kinds(lines: &str) -> Vec<(Kind, String)> {
    let generated = made(&format!("void f(int a)\n{{\n{lines}\n}}\n"));
    generated
        .mutants
        .into_iter()
        .map(|one| (one.kind, one.text))
        .collect()
}

#[test]
fn statements_can_be_left_out() {
    assert_eq!(body("g();"), "{ if (!ckpt_mutant()) g(); }");
    assert_eq!(body("a++;"), "{ if (!ckpt_mutant()) a++; }");
    assert_eq!(
        body("if (a)\ng();\nelse\nh();"),
        "if (ckpt_negate((a)))\n{ if (!ckpt_mutant()) g(); }\nelse\n{ if (!ckpt_mutant()) h(); }"
    );
    assert_eq!(body("out:\n\tg();"), "out:\n\t{ if (!ckpt_mutant()) g(); }");
    assert_eq!(
        body("a = b;"),
        "{ if (!ckpt_mutant()) a = ckpt_skew((b)); }"
    );
}

#[test]
fn what_does_nothing_or_declares_something_stays() {
    for text in [
        "lockdep_assert_held(&l);",
        "might_sleep();",
        "cond_resched();",
        "BUILD_BUG_ON(a);",
        "WARN_ON_ONCE(a);",
        "DEFINE_WAIT(w);",
        "return;",
        "goto out;",
        "break;",
        "static int c = 1;",
        "int b;",
        "for (;;)\n;",
        "while (1)\n;",
        "struct x b = QSTR_INIT(p, 2);",
        "g_t *b = container_of(a, struct g, m);",
        "b = ({ g(); h(); });",
        "#define X g()",
    ] {
        let left: Vec<_> = kinds(text)
            .into_iter()
            .filter(|(kind, _)| *kind != Kind::Skewed)
            .collect();
        let assigned = text.starts_with("b =");
        assert_eq!(left.len(), usize::from(assigned), "{text}: {left:?}");
    }
}

#[test]
fn conditions_and_their_operands_are_negated() {
    let negated = |lines: &str| {
        let all = kinds(lines).into_iter();
        let negated = all.filter(|(kind, _)| *kind == Kind::Negated);
        negated.map(|(_, text)| text).collect::<Vec<_>>()
    };
    assert_eq!(
        negated("if (a && b && (c || d))\n;"),
        ["a && b && (c || d)", "(c || d)", "a", "b", "c", "d"]
    );
    assert_eq!(negated("while (a)\n;"), ["a"]);
    assert_eq!(negated("do {\n} while (a);"), ["a"]);
    assert_eq!(negated("for (i = 0; i < a; i++)\n;"), ["i < a"]);
    assert_eq!(negated("b = a ? c : d;"), ["a"]);
    // Its value is that of the condition.
    assert_eq!(negated("b = a ?: d;"), [""; 0]);
    assert_eq!(negated("return a || b;"), ["a", "b"]);
    assert_eq!(negated("if (IS_ENABLED(CONFIG_X))\n;"), [""; 0]);
    assert_eq!(
        negated("if (unlikely(a && b))\n;"),
        ["unlikely(a && b)", "a", "b"]
    );
}

#[test]
fn values_are_skewed() {
    let skewed = |lines: &str| {
        let all = kinds(lines).into_iter();
        let skewed = all.filter(|(kind, _)| *kind == Kind::Skewed);
        skewed.map(|(_, text)| text).collect::<Vec<_>>()
    };
    assert_eq!(
        skewed("g(b, 2, &c, \"x\", NULL, h(d));"),
        ["b", "2", "h(d)", "d"]
    );
    assert_eq!(skewed("ckpt_err(b, -EINVAL, \"%d\", c);"), ["b", "-EINVAL"]);
    // Arguments of a macro need not be values.
    assert_eq!(skewed("container_of(b, c, d);"), [""; 0]);
    assert_eq!(skewed("struct x b = { .c = 1, .d = { 2 } };"), ["1", "2"]);
    assert_eq!(skewed("int b = c, d;"), ["c"]);
    assert_eq!(skewed("b = sizeof(struct x);"), ["sizeof(struct x)"]);
    assert_eq!(skewed("return b;"), [""; 0]);
    // A truth value is negated.
    assert_eq!(
        body("b = true;"),
        "{ if (!ckpt_mutant()) b = ckpt_negate((true)); }"
    );
    assert_eq!(
        body("b = !c;"),
        "{ if (!ckpt_mutant()) b = ckpt_negate((!c)); }"
    );
    // `<` becomes `<=`.
    assert_eq!(
        body("if (b < c)\n;"),
        "if (ckpt_negate((b < ckpt_skew((c)))))\n;"
    );
    assert_eq!(
        body("if (b > c)\n;"),
        "if (ckpt_negate((ckpt_skew((b)) > c)))\n;"
    );
}

#[test]
fn heads_of_loops_stay_and_their_bodies_do_not() {
    assert_eq!(
        body("list_for_each_entry(b, c->d, e)\n\tg();"),
        "list_for_each_entry(b, c->d, e)\n\t{ if (!ckpt_mutant()) g(); }"
    );
    assert_eq!(
        body("for_other_threads(b, c) {\n\tg();\n}"),
        "for_other_threads(b, c) {\n\t{ if (!ckpt_mutant()) g(); }\n}"
    );
}

#[test]
fn a_condition_with_lines_for_the_preprocessor_is_left_alone() {
    let text = "if (a &&\n#ifdef X\n    b &&\n#endif\n    c)\n\tg();";
    let generated = made(&format!("void f(int a)\n{{\n{text}\n}}\n"));
    let rewritten = &generated.sources[FILE];
    assert!(!rewritten.contains("ckpt_negate(1, (a &&"), "{rewritten}");
}

#[test]
fn what_a_function_must_not_reach_the_end_without_stays() {
    let source = "int f(void)\n{\n\tg();\n\tdo_exit(0);\n}\n";
    let left = made(source).mutants.into_iter();
    let left: Vec<_> = left
        .filter(|one| one.kind == Kind::LeftOut)
        .map(|one| one.text)
        .collect();
    assert_eq!(left, ["g();"]);
}

#[test]
fn names_do_not_depend_on_lines_nor_on_other_functions() {
    let one = "int g(void)\n{\n\th();\n\th();\n\treturn 0;\n}\n";
    let before = made(one);
    let after = made(&format!("void f(void)\n{{\n\ti();\n}}\n\n{one}"));
    let ids = |generated: &Generated| {
        let of_g = generated.mutants.iter().filter(|one| one.function == "g");
        of_g.map(|one| one.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&before), ids(&after));
    assert_eq!(ids(&before).len(), 2);
    // Equal statements have names of their own.
    assert_ne!(before.mutants[0].id, before.mutants[1].id);
    assert_eq!((before.mutants[0].line, after.mutants[1].line), (3, 8));
    assert_eq!(after.mutants[1].place(), "kernel/checkpoint/a.c:8");
}

#[test]
fn each_half_has_what_its_system_call_reaches() {
    let source = "
static void both(void)
{
	x();
}

static void save(void)
{
	both();
}

static void load(void)
{
	both();
}

static const struct ops ops = { .load = load };

SYSCALL_DEFINE1(checkpoint, int, fd)
{
	save();
	return 0;
}

SYSCALL_DEFINE1(restart, int, fd)
{
	register_ops(&ops);
	return 0;
}

void hook(void)
{
	y();
}
";
    let generated = made(source);
    let half = |function: &str| {
        let mut all = generated.mutants.iter();
        all.find(|one| one.function == function).map(|one| one.half)
    };
    assert_eq!(half("both"), Some(Half::Both));
    assert_eq!(half("save"), Some(Half::Saving));
    assert_eq!(half("load"), Some(Half::Restoring));
    assert_eq!(half("hook"), Some(Half::Hook));
    assert_eq!(half("sys_restart"), Some(Half::Restoring));
}

#[test]
fn the_sources_that_only_serve_the_lab_have_no_mutants() {
    use crate::is_source;
    assert!(is_source("kernel/checkpoint/vma.c"));
    assert!(is_source("arch/x86/kernel/checkpoint.c"));
    for other in [
        "kernel/checkpoint/break.c",
        "kernel/checkpoint/ckpt.h",
        "kernel/fork.c",
    ] {
        assert!(!is_source(other), "{other}");
    }
}
