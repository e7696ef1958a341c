// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page of all commands and options, from clap's description.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory};

use super::{code, table};
use crate::cli::Cli;

/// Returns the page's text.
pub fn text() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = format!("{}\n\n", about(&root));
    let global: Vec<_> = root
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .collect();
    let _ = writeln!(text, "## Global options\n\n{}", options(&global));
    for command in root.get_subcommands() {
        describe(command, &mut text);
    }
    text
}

/// Adds a command and its subcommands.
fn describe(command: &Command, text: &mut String) {
    if command.get_name() == "help" || command.is_hide_set() {
        return;
    }
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let mut usage = command.clone().render_usage().to_string();
    usage = usage.trim_start_matches("Usage: ").to_owned();
    let _ = writeln!(text, "## {name}\n\n{}\n\n    {usage}\n", about(command));
    let own: Vec<_> = command
        .get_arguments()
        .filter(|arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help")
        .collect();
    if !own.is_empty() {
        let _ = writeln!(text, "{}", options(&own));
    }
    for inner in command.get_subcommands() {
        describe(inner, text);
    }
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    let text = about.map(plain).unwrap_or_default();
    match text.ends_with('.') {
        true => text,
        false => text + ".",
    }
}

/// Returns a table of arguments.
fn options(arguments: &[&Arg]) -> String {
    let rows = arguments
        .iter()
        .filter(|arg| arg.get_id() != "version")
        .map(|arg| {
            let help = arg.get_long_help().or(arg.get_help());
            let mut help = help.map(plain).unwrap_or_default();
            let values: Vec<_> = arg
                .get_possible_values()
                .iter()
                .filter(|value| !value.is_hide_set())
                .map(|value| code(value.get_name()))
                .collect();
            if !values.is_empty() && arg.get_action().takes_values() {
                sentence(&mut help, &format!("Values: {}", values.join(", ")));
            }
            let default: Vec<_> = arg
                .get_default_values()
                .iter()
                .map(|v| v.to_string_lossy())
                .collect();
            if !default.is_empty() && arg.get_action().takes_values() {
                sentence(&mut help, &format!("Default: {}", code(&default.join(","))));
            }
            let name = match arg.get_short() {
                Some(short) => format!("-{short}, {arg}"),
                None => arg.to_string(),
            };
            [code(&name), help]
        });
    table(["option", "effect"], rows)
}

/// Returns a help text as one line of Markdown.
fn plain(text: &StyledStr) -> String {
    let text = text.to_string();
    let paragraphs: Vec<_> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let mut joined = String::new();
    for paragraph in paragraphs.iter().filter(|p| !p.is_empty()) {
        sentence(&mut joined, paragraph);
    }
    joined.replace('<', "&lt;")
}

/// Adds a sentence to a text.
fn sentence(text: &mut String, more: &str) {
    if !text.is_empty() {
        *text += if text.ends_with('.') { " " } else { ". " };
    }
    *text += more;
}
