// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the mutants of sources, and writes them into a copy.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use sha2::{Digest, Sha256};
use thiserror::Error;
use tree_sitter::{Node, Parser};

use crate::{
    Half, Kind, Mutant, rules,
    syntax::{Macros, Plain},
};

/// First lines of a rewritten source. The lines of the original keep their numbers.
const INCLUDE: &str = "#include <linux/ckpt_mutant.h>\n#line 1\n";

/// The functions in which the two system calls begin.
const ROOTS: [&str; 2] = ["sys_checkpoint", "sys_restart"];

/// Maximum depth of a syntax tree; code that people write has no deeper ones.
const DEEPEST: u32 = 400;

/// The sources cannot be parsed.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The parser cannot be set up.
    #[error("the C parser cannot be used: {0}")]
    Parser(String),
}

/// All mutants of some sources.
#[derive(Debug, Default)]
pub struct Generated {
    /// The rewritten sources, by path.
    pub sources: BTreeMap<String, String>,
    /// The mutants, in the order of their numbers.
    pub mutants: Vec<Mutant>,
    /// Functions that the parser does not understand, which have no mutants: `FILE: FUNCTION`.
    pub unread: Vec<String>,
}

/// Returns all mutants of the sources, by their path in the kernel's tree. `headers` are texts that
/// may define macros: their arguments need not be values, so they are left alone.
///
/// # Errors
/// The parser cannot be used.
pub fn generate<'a>(
    sources: &'a BTreeMap<String, String>,
    headers: impl IntoIterator<Item = &'a str>,
) -> Result<Generated, GenerateError> {
    let mut macros = Macros::default();
    for text in headers
        .into_iter()
        .chain(sources.values().map(String::as_str))
    {
        macros.read(text);
    }
    let mut parser = Parser::new();
    parser
        .set_language(&tree_sitter_c::LANGUAGE.into())
        .map_err(|error| GenerateError::Parser(error.to_string()))?;
    let mut generated = Generated::default();
    let mut functions = Vec::new();
    for (file, source) in sources {
        let plain = Plain::of(source);
        let tree = parser
            .parse(&plain.text, None)
            .ok_or_else(|| GenerateError::Parser(format!("it gives up on {file}")))?;
        let mut writer = Writer {
            file,
            source,
            plain: &plain,
            macros: &macros,
            function: String::new(),
            end: None,
            statement: (0, 0),
            edits: Vec::new(),
            mutants: std::mem::take(&mut generated.mutants),
        };
        writer.top(tree.root_node(), &mut functions, &mut generated.unread);
        let Writer { edits, mutants, .. } = writer;
        generated.mutants = mutants;
        let text = format!("{INCLUDE}{}", apply(source, edits));
        generated.sources.insert(file.clone(), text);
    }
    halves(&functions, &mut generated.mutants);
    name(&mut generated.mutants);
    Ok(generated)
}

/// A function, or a variable with an initial value, and the names that it uses.
struct Definition {
    file: String,
    name: String,
    names: BTreeSet<String>,
}

/// Something to insert.
struct Edit {
    at: usize,
    text: String,
    /// True at the end of the changed text.
    closes: bool,
}

struct Writer<'a> {
    file: &'a str,
    source: &'a str,
    plain: &'a Plain,
    macros: &'a Macros,
    function: String,
    /// Start of the statement that must not return, because the function would return no value.
    end: Option<usize>,
    statement: (u32, u32),
    edits: Vec<Edit>,
    mutants: Vec<Mutant>,
}

impl Writer<'_> {
    /// Finds the functions below a node of the file.
    fn top(&mut self, node: Node<'_>, found: &mut Vec<Definition>, unread: &mut Vec<String>) {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            match child.kind() {
                "function_definition" => {
                    let Some(name) = declared(child, &self.plain.text) else {
                        unread.push(format!("{}: line {}", self.file, line(child)));
                        continue;
                    };
                    found.push(self.definition(child, &name));
                    let body = child.child_by_field_name("body");
                    let Some(body) = body.filter(|_| !child.has_error()) else {
                        unread.push(format!("{}: {name}", self.file));
                        continue;
                    };
                    self.function = name;
                    let result = child.child_by_field_name("type");
                    let value = result.is_some_and(|it| self.text(it) != "void");
                    let count = body.named_child_count() as u32;
                    let last = count.checked_sub(1).and_then(|last| body.named_child(last));
                    self.end = last.filter(|_| value).map(|last| last.start_byte());
                    self.visit(body, 0);
                }
                "declaration" => {
                    if let Some(name) = declared(child, &self.plain.text) {
                        found.push(self.definition(child, &name));
                    }
                }
                "ERROR" => unread.push(format!("{}: line {}", self.file, line(child))),
                kind if kind.starts_with("preproc_") => self.top(child, found, unread),
                _ => {}
            }
        }
    }

    fn definition(&self, node: Node<'_>, name: &str) -> Definition {
        let mut names = BTreeSet::new();
        identifiers(node, &self.plain.text, &mut names, 0);
        Definition {
            file: self.file.to_owned(),
            name: name.to_owned(),
            names,
        }
    }

    fn text(&self, node: Node<'_>) -> &str {
        &self.source[node.byte_range()]
    }

    fn visit_children(&mut self, node: Node<'_>, depth: u32) {
        let mut cursor = node.walk();
        let children: Vec<_> = node.named_children(&mut cursor).collect();
        for child in children {
            self.visit(child, depth + 1);
        }
    }

    fn visit_field(&mut self, node: Node<'_>, field: &str, depth: u32) {
        if let Some(child) = node.child_by_field_name(field) {
            self.visit(child, depth + 1);
        }
    }

    /// Finds the mutants of a statement or an expression.
    fn visit(&mut self, node: Node<'_>, depth: u32) {
        if depth > DEEPEST {
            return;
        }
        match node.kind() {
            // No value is computed, or it must be a constant.
            "comment"
            | "sizeof_expression"
            | "alignof_expression"
            | "offsetof_expression"
            | "type_descriptor"
            | "preproc_def"
            | "preproc_function_def"
            | "preproc_call"
            | "gnu_asm_expression"
            | "struct_specifier"
            | "enum_specifier" => {}
            "declaration" => self.declaration(node, depth),
            "expression_statement" => {
                self.statement = lines(node);
                let Some(inner) = node.named_child(0) else {
                    return;
                };
                if self.can_be_left_out(inner) && self.end != Some(node.start_byte()) {
                    self.wrap(Kind::LeftOut, node, node.byte_range());
                }
                self.visit(inner, depth + 1);
            }
            "return_statement" => {
                self.statement = lines(node);
                self.visit_children(node, depth);
            }
            "if_statement" | "while_statement" | "do_statement" | "switch_statement" => {
                let loops = self.plain.replaced.iter();
                let head = loops.into_iter().any(|it| it.start == node.start_byte());
                // The body of `do … while` comes first.
                if node.kind() == "do_statement" {
                    self.visit_field(node, "body", depth);
                }
                if let Some(condition) = node.child_by_field_name("condition").filter(|_| !head) {
                    self.statement = lines(condition);
                    let inner = condition.named_child(0).unwrap_or(condition);
                    if node.kind() != "switch_statement" {
                        self.negate(inner);
                    }
                    self.visit(inner, depth + 1);
                }
                if node.kind() != "do_statement" {
                    self.visit_field(node, "body", depth);
                }
                self.visit_field(node, "consequence", depth);
                self.visit_field(node, "alternative", depth);
            }
            "for_statement" => {
                let head = (line(node), line_of(node, "body").unwrap_or(line(node)));
                for field in ["initializer", "condition", "update"] {
                    self.statement = head;
                    let part = node.child_by_field_name(field);
                    if let Some(condition) = part.filter(|_| field == "condition") {
                        self.negate(condition);
                    }
                    self.visit_field(node, field, depth);
                }
                self.visit_field(node, "body", depth);
            }
            "case_statement" => {
                let value = node.child_by_field_name("value");
                let mut cursor = node.walk();
                let children: Vec<_> = node.named_children(&mut cursor).collect();
                for child in children.into_iter().filter(|child| Some(*child) != value) {
                    self.visit(child, depth + 1);
                }
            }
            "preproc_if" | "preproc_ifdef" | "preproc_elif" | "preproc_else" => {
                let heads = ["condition", "name"].map(|field| node.child_by_field_name(field));
                let mut cursor = node.walk();
                let children: Vec<_> = node.named_children(&mut cursor).collect();
                for child in children
                    .into_iter()
                    .filter(|child| !heads.contains(&Some(*child)))
                {
                    self.visit(child, depth + 1);
                }
            }
            "parenthesized_expression" => {
                let inner = node.named_child(0);
                // The value of a block is that of its last statement.
                if inner.is_some_and(|inner| inner.kind() != "compound_statement") {
                    self.visit_children(node, depth);
                }
            }
            "conditional_expression" => {
                let condition = node.child_by_field_name("condition");
                // `a ?: b` has the value of its condition.
                let whole = node.child_by_field_name("consequence").is_some();
                if let Some(condition) = condition.filter(|_| whole) {
                    self.negate(condition);
                }
                self.visit_children(node, depth);
            }
            "binary_expression" => self.binary(node, depth),
            "assignment_expression" => {
                if let Some(right) = node.child_by_field_name("right") {
                    self.skew(right);
                }
                self.visit_children(node, depth);
            }
            "call_expression" => self.call(node, depth),
            "initializer_list" => self.list(node, depth),
            "initializer_pair" => {
                if let Some(value) = node.child_by_field_name("value") {
                    self.skew(value);
                    self.visit(value, depth + 1);
                }
            }
            _ => self.visit_children(node, depth),
        }
    }

    fn declaration(&mut self, node: Node<'_>, depth: u32) {
        let mut cursor = node.walk();
        let children: Vec<_> = node.named_children(&mut cursor).collect();
        let is_static = |child: &Node<'_>| {
            child.kind() == "storage_class_specifier" && self.text(*child) == "static"
        };
        // Its initial value must be a constant.
        if children.iter().any(is_static) {
            return;
        }
        self.statement = lines(node);
        for child in children {
            let value = child.child_by_field_name("value");
            if let Some(value) = value.filter(|_| child.kind() == "init_declarator") {
                let callee = value.child_by_field_name("function");
                if callee.is_none_or(|it| !self.macros.lists.contains(self.text(it))) {
                    self.skew(value);
                }
                self.visit(value, depth + 1);
            }
        }
    }

    fn list(&mut self, node: Node<'_>, depth: u32) {
        let mut cursor = node.walk();
        let children: Vec<_> = node.named_children(&mut cursor).collect();
        for child in children {
            if child.kind() != "initializer_pair" {
                self.skew(child);
            }
            self.visit(child, depth + 1);
        }
    }

    fn binary(&mut self, node: Node<'_>, depth: u32) {
        let operator = node.child_by_field_name("operator");
        let operator = operator
            .map(|it| self.text(it).to_owned())
            .unwrap_or_default();
        let sides = ["left", "right"].map(|side| node.child_by_field_name(side));
        match operator.as_str() {
            "&&" | "||" => {
                for side in sides.into_iter().flatten() {
                    // `a && b && c` has three operands.
                    let inner = side.child_by_field_name("operator");
                    let chain = side.kind() == "binary_expression"
                        && inner.is_some_and(|inner| self.text(inner) == operator);
                    if !chain {
                        self.negate(side);
                    }
                }
            }
            // `a < b` becomes `a < b + 1`, which is `a <= b`; `a > b` becomes `a + 1 > b`.
            "<" | ">=" => self.bound(node, sides[1]),
            ">" | "<=" => self.bound(node, sides[0]),
            _ => {}
        }
        for side in sides.into_iter().flatten() {
            self.visit(side, depth + 1);
        }
    }

    fn bound(&mut self, comparison: Node<'_>, side: Option<Node<'_>>) {
        if let Some(side) = side {
            self.wrap(Kind::Skewed, comparison, side.byte_range());
        }
    }

    fn call(&mut self, node: Node<'_>, depth: u32) {
        let Some(function) = node.child_by_field_name("function") else {
            return;
        };
        let callee = match function.kind() {
            "identifier" => self.text(function).to_owned(),
            _ => String::new(),
        };
        let transparent = rules::is_transparent(&callee);
        if callee.starts_with("__builtin") || (self.macros.all.contains(&callee) && !transparent) {
            return;
        }
        if callee.is_empty() {
            self.visit(function, depth + 1);
        }
        let Some(arguments) = node.child_by_field_name("arguments") else {
            return;
        };
        let mut cursor = arguments.walk();
        let arguments: Vec<_> = arguments.named_children(&mut cursor).collect();
        for argument in arguments {
            let is_text = matches!(argument.kind(), "string_literal" | "concatenated_string");
            if is_text && rules::is_message(&callee) {
                break;
            }
            if !transparent {
                self.skew(argument);
            }
            self.visit(argument, depth + 1);
        }
    }

    fn can_be_left_out(&self, expression: Node<'_>) -> bool {
        match expression.kind() {
            "assignment_expression" | "update_expression" => true,
            "call_expression" => {
                let function = expression.child_by_field_name("function");
                function.is_some_and(|it| {
                    let callee = self.text(it);
                    !rules::is_idle(callee) && !rules::is_declaration(callee)
                })
            }
            _ => false,
        }
    }

    fn negate(&mut self, condition: Node<'_>) {
        let constant = matches!(condition.kind(), "true" | "false" | "number_literal");
        // The compiler must be able to prove that such code is never run.
        if !constant && !self.text(condition).contains("IS_ENABLED") {
            self.wrap(Kind::Negated, condition, condition.byte_range());
        }
    }

    fn skew(&mut self, value: Node<'_>) {
        match value.kind() {
            // No numbers.
            "string_literal"
            | "concatenated_string"
            | "null"
            | "initializer_list"
            | "compound_literal_expression"
            | "comment" => {}
            // An address.
            "pointer_expression" if self.text(value).starts_with('&') => {}
            "identifier" if self.text(value) == "NULL" => {}
            _ => self.wrap(Kind::Skewed, value, value.byte_range()),
        }
    }

    /// Adds the mutant that changes the node `what`, by rewriting `range` in it.
    fn wrap(&mut self, kind: Kind, what: Node<'_>, range: Range<usize>) {
        let original = &self.source[range.clone()];
        // A macro's argument cannot contain lines for the preprocessor.
        let conditional = original
            .lines()
            .skip(1)
            .any(|l| l.trim_start().starts_with('#'));
        if what.has_error() || conditional {
            return;
        }
        let number = self.mutants.len() as u32 + 1;
        let (before, after) = match kind {
            Kind::LeftOut => (format!("{{ if (!ckpt_mutant({number})) "), " }".to_owned()),
            Kind::Negated => (format!("ckpt_negate({number}, ("), "))".to_owned()),
            Kind::Skewed if is_truth(what, self.source) && what.byte_range() == range => {
                (format!("ckpt_negate({number}, ("), "))".to_owned())
            }
            Kind::Skewed => (format!("ckpt_skew({number}, ("), "))".to_owned()),
        };
        self.mutants.push(Mutant {
            id: String::new(),
            number,
            file: self.file.to_owned(),
            function: self.function.clone(),
            half: Half::Hook,
            kind,
            line: line(what),
            statement: (
                self.statement.0.min(line(what)),
                self.statement.1.max(line(what)),
            ),
            text: one_line(self.text(what)),
        });
        for (at, text, closes) in [(range.start, before, false), (range.end, after, true)] {
            self.edits.push(Edit { at, text, closes });
        }
    }
}

/// Returns true for an expression that is 0 or 1.
fn is_truth(node: Node<'_>, source: &str) -> bool {
    let operator = node.child_by_field_name("operator");
    let operator = operator.map_or("", |it| &source[it.byte_range()]);
    match node.kind() {
        "true" | "false" => true,
        "binary_expression" => {
            matches!(
                operator,
                "<" | "<=" | ">" | ">=" | "==" | "!=" | "&&" | "||"
            )
        }
        "unary_expression" => operator == "!",
        "parenthesized_expression" => node
            .named_child(0)
            .is_some_and(|inner| is_truth(inner, source)),
        _ => false,
    }
}

/// Returns the text with all edits. Of the edits that begin at one place, the first contains the
/// later ones.
fn apply(source: &str, edits: Vec<Edit>) -> String {
    let mut order: Vec<_> = edits.iter().enumerate().collect();
    order.sort_by_key(|(index, edit)| {
        let index = *index as i64;
        (
            edit.at,
            !edit.closes,
            if edit.closes { -index } else { index },
        )
    });
    let mut text = String::with_capacity(source.len() * 2);
    let mut at = 0;
    for (_, edit) in order {
        text.push_str(&source[at..edit.at]);
        text.push_str(&edit.text);
        at = edit.at;
    }
    text.push_str(&source[at..]);
    text
}

/// Sets the half of each mutant to that of its function.
fn halves(definitions: &[Definition], mutants: &mut [Mutant]) {
    let reached = ROOTS.map(|root| closure(definitions, root));
    let halves: BTreeMap<(&str, &str), Half> = definitions
        .iter()
        .enumerate()
        .map(|(index, one)| {
            let half = match [0, 1].map(|root: usize| reached[root].contains(&index)) {
                [true, true] => Half::Both,
                [true, false] => Half::Saving,
                [false, true] => Half::Restoring,
                [false, false] => Half::Hook,
            };
            ((one.file.as_str(), one.name.as_str()), half)
        })
        .collect();
    for mutant in mutants {
        let half = halves.get(&(mutant.file.as_str(), mutant.function.as_str()));
        mutant.half = half.copied().unwrap_or(Half::Hook);
    }
}

/// Returns the definitions that are reached from a function, by name. If two static functions have
/// one name, that in the same file is followed.
fn closure(definitions: &[Definition], root: &str) -> BTreeSet<usize> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, one) in definitions.iter().enumerate() {
        by_name.entry(&one.name).or_default().push(index);
    }
    let mut next = by_name.get(root).cloned().unwrap_or_default();
    let mut reached: BTreeSet<_> = next.iter().copied().collect();
    while let Some(from) = next.pop() {
        for name in &definitions[from].names {
            let Some(all) = by_name.get(name.as_str()) else {
                continue;
            };
            let own = |index: &&usize| definitions[**index].file == definitions[from].file;
            let chosen: Vec<_> = match all.iter().any(|index| own(&index)) {
                true => all.iter().filter(own).copied().collect(),
                false => all.clone(),
            };
            next.extend(chosen.into_iter().filter(|&index| reached.insert(index)));
        }
    }
    reached
}

/// Gives each mutant its name: a hash of its file, its function and its text, but not of its line.
fn name(mutants: &mut [Mutant]) {
    let mut equal: BTreeMap<String, u32> = BTreeMap::new();
    for mutant in mutants {
        let Mutant {
            file,
            function,
            kind,
            text,
            ..
        } = &*mutant;
        let what = format!("{file}\0{function}\0{}\0{text}", kind.name());
        let ordinal = equal.entry(what.clone()).or_default();
        let hash = Sha256::digest(format!("{what}\0{ordinal}"));
        *ordinal += 1;
        mutant.id = hash
            .iter()
            .take(5)
            .map(|byte| format!("{byte:02x}"))
            .collect();
    }
}

/// Returns the name that a definition or a declaration defines.
fn declared(node: Node<'_>, source: &str) -> Option<String> {
    let mut node = node.child_by_field_name("declarator")?;
    for _ in 0..DEEPEST {
        if node.kind() == "identifier" {
            return Some(source[node.byte_range()].to_owned());
        }
        let inner = node.child_by_field_name("declarator");
        node = match inner {
            Some(inner) => inner,
            None => node.named_child(0)?,
        };
    }
    None
}

fn identifiers(node: Node<'_>, source: &str, into: &mut BTreeSet<String>, depth: u32) {
    if node.kind() == "identifier" {
        into.insert(source[node.byte_range()].to_owned());
    }
    if depth < DEEPEST {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            identifiers(child, source, into, depth + 1);
        }
    }
}

fn line(node: Node<'_>) -> u32 {
    node.start_position().row as u32 + 1
}

fn lines(node: Node<'_>) -> (u32, u32) {
    (line(node), node.end_position().row as u32 + 1)
}

fn line_of(node: Node<'_>, field: &str) -> Option<u32> {
    node.child_by_field_name(field).map(line)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
