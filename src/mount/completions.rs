//! `ftpsfs completions SHELL`: what clap knows of the command line, and the table's mount options
//! behind `-o`, which clap cannot know.

use std::fmt::Write;

use clap_complete::Shell;

use super::cli;
use super::options::table::{Kind, Spec, TABLE};

/// The subcommands that take mount options.
const WITH_OPTIONS: [&str; 4] = ["mount", "open", "doctor", "recover"];

/// The script for a shell.
pub fn script(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "ftpsfs", &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    match shell {
        Shell::Bash => text + &bash(),
        Shell::Fish => text + &fish(),
        Shell::Zsh => zsh(text),
        _ => text,
    }
}

/// `name` or `name=`.
fn word(spec: &Spec) -> String {
    match spec.kind {
        Kind::Flag(_) => spec.name.to_owned(),
        Kind::Value { .. } => format!("{}=", spec.name),
    }
}

/// The words that a value may be, where these are all.
fn values(spec: &Spec) -> impl Iterator<Item = &'static str> {
    let form = match spec.kind {
        Kind::Value { form, .. } if form.contains('|') => form,
        _ => "",
    };
    form.split('|').filter(|value| !value.is_empty())
}

/// What may stand behind `-o` and behind each comma.
fn words() -> Vec<String> {
    let all = TABLE.iter().map(|spec| {
        let values: Vec<_> = values(spec)
            .map(|value| format!("{}={value}", spec.name))
            .collect();
        match values.is_empty() {
            true => vec![word(spec)],
            false => values,
        }
    });
    all.flatten().collect()
}

fn bash() -> String {
    let words = words().join(" ");
    format!(
        r#"
_ftpsfs_with_options() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="" before=""
    # Where bash takes `=` for a word of its own, the pieces are put together again.
    local line="${{COMP_LINE:0:COMP_POINT}}"
    cur="${{line##* }}"
    line="${{line% *}}"
    prev="${{line##* }}"
    if [ "$prev" != -o ]; then
        _ftpsfs "$@"
        return
    fi
    case $cur in *,*) before="${{cur%,*}}," cur="${{cur##*,}}" ;; esac
    local word whole=()
    for word in {words}; do
        case $word in "$cur"*) whole+=("$before$word") ;; esac
    done
    # Readline replaces only what stands behind the last `=` or `:`.
    local kept="$before$cur"
    case $COMP_WORDBREAKS in *=*) kept="${{kept%"${{kept##*=}}"}}" ;; *) kept="" ;; esac
    COMPREPLY=("${{whole[@]#"$kept"}}")
    compopt -o nospace 2>/dev/null
}}
complete -F _ftpsfs_with_options -o bashdefault -o default ftpsfs
"#
    )
}

fn fish() -> String {
    let mut text = String::from("\nfunction __ftpsfs_mount_options\n");
    for spec in TABLE {
        let values: Vec<_> = values(spec).collect();
        let words = match values.is_empty() {
            true => vec![word(spec)],
            false => values
                .iter()
                .map(|value| format!("{}={value}", spec.name))
                .collect(),
        };
        for word in words {
            let help = spec.help.replace('\\', r"\\").replace('\'', r"\'");
            let _ = writeln!(text, "    printf '%s\\t%s\\n' '{word}' '{help}'");
        }
    }
    text += "end\n";
    for subcommand in WITH_OPTIONS {
        let _ = writeln!(
            text,
            "complete -c ftpsfs -n '__fish_seen_subcommand_from {subcommand}' -s o -x \
             -a '(__fish_complete_list , __ftpsfs_mount_options)'"
        );
    }
    text
}

/// clap leaves what follows `-o` to files: it is replaced by a function of ours.
fn zsh(generated: String) -> String {
    let mut function = String::from("_ftpsfs_mount_options() {\n    _values -s , 'mount option'");
    for spec in TABLE {
        let help: String = spec
            .help
            .chars()
            .filter(|c| !matches!(c, '\'' | '[' | ']'))
            .collect();
        let help = help.replace(':', r"\:");
        let values: Vec<_> = values(spec).collect();
        let value = match (&spec.kind, values.is_empty()) {
            (Kind::Flag(_), _) => String::new(),
            (Kind::Value { .. }, true) => format!(":{}: ", spec.name),
            (Kind::Value { .. }, false) => format!(":{}:({})", spec.name, values.join(" ")),
        };
        let _ = write!(function, " \\\n        '{}[{help}]{value}'", spec.name);
    }
    function += "\n}\n\n";
    let replaced = generated.replace(":OPTIONS:_default", ":OPTIONS:_ftpsfs_mount_options");
    let at = replaced.find("_ftpsfs() {").unwrap_or(replaced.len());
    let (head, body) = replaced.split_at(at);
    format!("{head}{function}{body}")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn every_option_is_in_every_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for spec in TABLE {
                let found = script.contains(&format!("'{}[", spec.name))
                    || script.contains(&format!("'{}", word(spec)))
                    || script.contains(&format!(" {}", word(spec)));
                assert!(found, "{} in {shell}", spec.name);
            }
            for subcommand in cli::command().get_subcommands() {
                assert!(script.contains(subcommand.get_name()), "{shell}");
            }
        }
        let zsh = script(Shell::Zsh);
        assert!(zsh.contains(":OPTIONS:_ftpsfs_mount_options"), "{zsh}");
    }

    /// What bash offers at the end of a line.
    fn completed(line: &str) -> Vec<String> {
        let script = script(Shell::Bash)
            + &format!(
                "COMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}} COMP_WORDS=({line})\n\
                 COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n_ftpsfs_with_options ftpsfs\n\
                 printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
            );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &script]).stdin(Stdio::null());
        let output = bash.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_behind_commas_and_equals_signs() {
        assert_eq!(completed("ftpsfs mount -o fing"), ["fingerprint="]);
        assert_eq!(completed("ftpsfs mount -o ro,impl"), ["ro,implicit"]);
        assert_eq!(
            completed("ftpsfs mount h:/ /mnt -o port=1,tofu"),
            ["1,tofu"]
        );
        assert_eq!(completed("ftpsfs mount -o tls=1.3"), ["1.3"]);
        assert_eq!(completed("ftpsfs mount -o ro,tls=1.3"), ["1.3"]);
    }
}
