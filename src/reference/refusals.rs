// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page of all messages with which `checkpoint(2)` and `restart(2)` refuse or fail, from the
//! calls of `ckpt_err()` in the kernel's sources.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{code, table};

/// The directories with C/R code.
const DIRECTORIES: [&str; 2] = ["src/kernel/checkpoint", "src/arch/x86/kernel"];

/// Returns the page's text.
pub fn text(guest_kernel: &Path) -> Result<String> {
    let mut text = "The lines that the two calls write to their log descriptor, by the file \
                    of `guest-kernel/src` that has them. `%s` and the like stand for names and \
                    numbers; a line about a task begins with its pid and ends with the errno. \
                    Where the errno is a variable, an operation failed and the line has its \
                    error. [Supported resources](supported.md) explains the kinds of refusals.\n"
        .to_owned();
    for directory in DIRECTORIES {
        let path = guest_kernel.join(directory);
        let mut files: Vec<_> = fs::read_dir(&path)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<Result<_, _>>()
            })
            .with_context(|| format!("cannot list {}", path.display()))?;
        files.retain(|file| file.extension().is_some_and(|ending| ending == "c"));
        files.sort();
        for file in files {
            let source = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let calls = calls(&source);
            if calls.is_empty() {
                continue;
            }
            let name = file.strip_prefix(guest_kernel.join("src")).unwrap_or(&file);
            text += &format!("\n## {}\n\n", name.display());
            text += &table(["errno", "message"], calls);
        }
    }
    if !text.contains("EOPNOTSUPP") {
        bail!("no refusals in {}", guest_kernel.display());
    }
    Ok(text)
}

/// Returns errno and message of each call of `ckpt_err()` with a literal message.
fn calls(source: &str) -> Vec<[String; 2]> {
    let mut rows: Vec<[String; 2]> = Vec::new();
    for (at, _) in source.match_indices("ckpt_err(") {
        let rest = &source[at + "ckpt_err(".len()..];
        let mut arguments = rest.splitn(3, ',').skip(1);
        let (Some(errno), Some(rest)) = (arguments.next(), arguments.next()) else {
            continue;
        };
        let Some(message) = literal(rest) else {
            continue;
        };
        let errno = match errno.trim().strip_prefix('-') {
            Some(errno) => code(errno),
            None => "of the operation".to_owned(),
        };
        let row = [errno, code(&message)];
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows
}

/// Returns the string literals at the beginning of a C text, joined.
fn literal(text: &str) -> Option<String> {
    let mut rest = text.trim_start();
    let mut message = String::new();
    while let Some(inner) = rest.strip_prefix('"') {
        let (part, after) = inner.split_once('"')?;
        message += part;
        rest = after.trim_start();
    }
    (!message.is_empty()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_over_several_lines_are_read() {
        let source = "
\t\treturn ckpt_err(ctx, -EBUSY, \"%s is \"
\t\t\t\t\"shared\", name);
\treturn ret ? ckpt_err(ctx, ret, \"stat\") : 0;
int ckpt_err(struct ckpt_ctx *ctx, int err, const char *fmt, ...)
";
        let rows: Vec<_> = calls(source).iter().map(|row| row.join(" ")).collect();
        assert_eq!(rows, ["`EBUSY` `%s is shared`", "of the operation `stat`"]);
    }
}
