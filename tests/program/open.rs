//! `ftpsfs open URL`, by an ordinary user on a desktop that is made of scripts: they answer in the
//! place of the user, and write down what they were asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ftpsfs::proto::Secret;
use ftpsfs::server::{Faults, Users};

use super::bench::{Bench, PASSWORD, processes_with, signal, succeed};

const UID: u32 = 4321;

/// Answers with the next line of `answers`: an exit code, and what the user has typed.
const DIALOG: &str = r#"#!/bin/sh
PATH=/usr/bin:/bin
printf '%s\n' "$(basename "$0") $*" | tr '\n' ' ' >>@DIR/asked
echo >>@DIR/asked
answer=$(head -n 1 @DIR/answers)
sed -i 1d @DIR/answers
[ "${answer#* }" = "$answer" ] || printf '%s\n' "${answer#* }"
exit "${answer%% *}"
"#;

/// Keeps a password by its attributes.
const SECRET_TOOL: &str = r#"#!/bin/sh
PATH=/usr/bin:/bin
what=$1
shift
[ "$1" != --label ] || shift 2
file="@DIR/keyring/$*"
echo "$what $*" >>@DIR/keyring.log
case $what in
    lookup) cat "$file" 2>/dev/null ;;
    store) cat >"$file" ;;
esac
"#;

const XDG_OPEN: &str = "#!/bin/sh\necho \"shown: $1:\" $(ls \"$1\") >>@DIR/shown\n";

/// A bench of an ordinary user's.
struct Desktop {
    bench: Bench,
}

impl Desktop {
    fn new(bench: Bench) -> Self {
        fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_ftpsfs"), bench.path("ftpsfs")).unwrap();
        fs::create_dir(bench.path("served/with blank")).unwrap();
        fs::write(bench.path("served/with blank/inside"), "inside").unwrap();
        for folder in ["run", "home", "keyring", "programs", "tmp"] {
            fs::create_dir(bench.path(folder)).unwrap();
            chown(bench.path(folder), Some(UID), Some(UID)).unwrap();
        }
        chown(bench.folder.path(), Some(UID), Some(UID)).unwrap();
        fs::set_permissions(bench.path("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let desktop = Self { bench };
        desktop.has("zenity", DIALOG);
        desktop.has("secret-tool", SECRET_TOOL);
        desktop.has("xdg-open", XDG_OPEN);
        desktop
    }

    fn has(&self, program: &str, script: &str) {
        let path = self.bench.path("programs").join(program);
        fs::write(&path, self.fill(script)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn lacks(&self, program: &str) {
        fs::remove_file(self.bench.path("programs").join(program)).unwrap();
    }

    fn fill(&self, text: &str) -> String {
        let port = self.bench.server.local_addr().port().to_string();
        let dir = self.bench.folder.path().to_str().unwrap();
        text.replace("@PORT", &port).replace("@DIR", dir)
    }

    /// Runs a script as the user, who gives these answers, in a namespace of mounts that ends with
    /// it. `@DIR` and `@PORT` are the bench's.
    fn run(&self, answers: &[&str], script: &str) -> Output {
        for (name, text) in [("answers", answers.join("\n")), ("asked", String::new())] {
            fs::write(self.bench.path(name), text).unwrap();
            chown(self.bench.path(name), Some(UID), Some(UID)).unwrap();
        }
        let _ = fs::remove_file(self.bench.path("shown"));
        let script = format!(
            "[ -e @DIR/fuse ] || mknod -m 666 @DIR/fuse c 10 229
            mount --bind @DIR/fuse /dev/fuse
            cp /etc/passwd @DIR/passwd
            echo guest:x:{UID}:{UID}::@DIR/home:/bin/sh >>@DIR/passwd
            mount --bind @DIR/passwd /etc/passwd
            exec setpriv --reuid {UID} --regid {UID} --clear-groups env -i DISPLAY=:77 HOME=@DIR/home \
                XDG_RUNTIME_DIR=@DIR/run TMPDIR=@DIR/tmp \
                PATH=@DIR/programs:@DIR:/usr/sbin:/usr/bin:/sbin:/bin sh -uc '
                cd /
                at=@DIR/run/ftpsfs/
                mounts() {{ grep -c \" fuse.ftps .*user_id={UID}\" /proc/self/mountinfo; }}
                done_with() {{ fusermount3 -u \"$at$1\"; rmdir \"$at$1\"; }}
                {script}
                '"
        );
        let mut command = Command::new("timeout");
        command.args(["60", "unshare", "-m", "sh", "-euc", &self.fill(&script)]);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What the script writes, which has to succeed.
    fn said(&self, answers: &[&str], script: &str) -> String {
        let output = self.run(answers, script);
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}: {text}{errors}", output.status);
        text + &errors
    }

    /// What the user was asked, one line for each dialog.
    fn asked(&self) -> Vec<String> {
        self.lines("asked")
    }

    /// That the processes which a script has looked at have the password where it cannot be seen.
    fn has_seen_no_password(&self) {
        let seen = fs::read(self.bench.path("tmp/seen")).unwrap();
        let seen = String::from_utf8_lossy(&seen);
        has_all(&seen, &["ftpsfs", "password_stdin"]);
        assert!(!seen.contains(PASSWORD));
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.bench.path(name)).unwrap_or_default();
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    fn known_hosts(&self) -> PathBuf {
        self.bench.path("home/.local/state/ftpsfs/known_hosts")
    }
}

impl Drop for Desktop {
    /// A test that failed leaves its mount to a process that nobody else would end.
    fn drop(&mut self) {
        for pid in processes_with(self.bench.folder.path().to_str().unwrap()) {
            signal(pid, 9);
        }
    }
}

fn typed(text: &str) -> String {
    format!("0 {text}")
}

fn has_all(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn a_link_is_mounted_once_and_its_folder_shown() {
    let desktop = Desktop::new(Bench::new());
    let script = "
        ftpsfs open ftps://me@127.0.0.1:@PORT/with%20blank || exit
        ftpsfs open ftps://me@127.0.0.1:@PORT/ || exit
        ftpsfs open ftps://127.0.0.1:@PORT/hello || exit
        mounts
        stat -c %a @DIR/run/ftpsfs
        cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null >@DIR/tmp/seen
        done_with me@127.0.0.1:@PORT";
    let text = desktop.said(&[&typed(PASSWORD), "0", "1"], script);
    let at = desktop.fill("@DIR/run/ftpsfs/me@127.0.0.1:@PORT");
    assert_eq!(text, format!("{at}/with blank\n{at}\n{at}\n1\n700\n"));
    let root = format!("shown: {at}: hello with blank");
    let inside = format!("shown: {at}/with blank: inside");
    assert_eq!(desktop.lines("shown"), [inside, root.clone(), root]);
    desktop.has_seen_no_password();
    // The password, the certificate, and whether to keep the password: for the first link only.
    let asked = desktop.asked();
    assert_eq!(asked.len(), 3, "{asked:?}");
    has_all(
        &asked[0],
        &[
            "zenity --entry",
            "--hide-text",
            "--text=Password for me@127.0.0.1:",
        ],
    );
    let print = desktop.bench.server.fingerprint().to_string();
    has_all(
        &asked[1],
        &[
            "--question",
            "--default-cancel",
            "--ok-label=Trust it",
            &print,
        ],
    );
    has_all(
        &asked[2],
        &[
            "--question",
            "Keep the password for me@127.0.0.1 in the keyring?",
        ],
    );
    let log = desktop.lines("keyring.log");
    assert!(
        log.iter()
            .all(|line| line.starts_with("lookup protocol ftps server 127.0.0.1 port "))
    );
    let known = fs::read_to_string(desktop.known_hosts()).unwrap();
    has_all(&known, &[&print]);
}

#[test]
fn a_certificate_is_never_trusted_without_being_asked_about() {
    let desktop = Desktop::new(Bench::new());
    let url = "ftps://me@127.0.0.1:@PORT/";
    let script = format!("ftpsfs open {url}; echo code $?; mounts");
    let text = desktop.said(&[&typed(PASSWORD), "1"], &format!("{script}; true"));
    assert_eq!(text, "code 32\n0\nftpsfs: cancelled\n");
    assert!(!desktop.known_hosts().exists());
    assert_eq!(
        desktop.asked().len(),
        2,
        "the user knows that it was cancelled"
    );
    // Another one than was trusted before is refused, and nothing is asked.
    fs::create_dir_all(desktop.known_hosts().parent().unwrap()).unwrap();
    let port = desktop.bench.server.local_addr().port();
    let line = format!("[127.0.0.1]:{port} sha256:{}\n", "07".repeat(32));
    fs::write(desktop.known_hosts(), &line).unwrap();
    let text = desktop.said(&[&typed(PASSWORD), "0"], &format!("{script}; true"));
    has_all(&text, &["code 32\n0\n", "IT HAS CHANGED"]);
    let asked = desktop.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    has_all(
        &asked[1],
        &[
            "zenity --error --title=ftpsfs --no-markup",
            "IT HAS CHANGED",
        ],
    );
    assert_eq!(fs::read_to_string(desktop.known_hosts()).unwrap(), line);
}

#[test]
fn a_wrong_password_is_asked_for_again_and_not_for_ever() {
    let desktop = Desktop::new(Bench::new());
    let script = "
        ftpsfs open ftps://me@127.0.0.1:@PORT/
        echo code $?
        mounts
        ls -A $at
        true";
    let wrong = typed("wrong-guess");
    let answers = [&*wrong, "0", &*wrong, &*wrong, &*wrong, "0", &*wrong];
    let text = desktop.said(&answers, script);
    has_all(&text, &["code 32\n0\n", "login refused: 530"]);
    assert!(!text.contains("wrong-guess"), "{text}");
    let asked = desktop.asked();
    assert_eq!(asked.len(), 6, "{asked:?}");
    has_all(
        &asked[2],
        &[
            "--hide-text",
            "The server refuses: 530",
            "Password for me@127.0.0.1:",
        ],
    );
    has_all(&asked[5], &["zenity --error", "login refused: 530"]);
    let mounted =
        "ftpsfs open ftps://me@127.0.0.1:@PORT/ && mounts && done_with me@127.0.0.1:@PORT";
    let text = desktop.said(&[&wrong, &typed(PASSWORD), "1"], mounted);
    assert!(text.ends_with("\n1\n"), "{text}");
    assert_eq!(desktop.asked().len(), 3, "its certificate is known");
    // Who closes the dialog is asked no more.
    let text = desktop.said(&[&wrong, "1"], script);
    has_all(&text, &["code 32", "cancelled"]);
    assert_eq!(desktop.asked().len(), 2);
}

#[test]
fn the_keyring_gives_the_password_and_keeps_it() {
    let desktop = Desktop::new(Bench::new());
    let script = "
        ftpsfs open ftps://me@127.0.0.1:@PORT/ && mounts
        done_with me@127.0.0.1:@PORT";
    let text = desktop.said(&[&typed(PASSWORD), "0", "0"], script);
    assert!(text.ends_with("\n1\n"), "{text}");
    let port = desktop.bench.server.local_addr().port();
    let name = format!("keyring/protocol ftps server 127.0.0.1 port {port} user me");
    let kept = desktop.bench.path(&name);
    assert_eq!(fs::read_to_string(&kept).unwrap(), PASSWORD);
    desktop.said(&[], script);
    assert_eq!(desktop.asked(), Vec::<String>::new());
    // One that the server no longer takes is replaced.
    fs::write(&kept, "outdated").unwrap();
    desktop.said(&[&typed(PASSWORD), "0"], script);
    assert_eq!(desktop.asked().len(), 2);
    assert_eq!(fs::read_to_string(&kept).unwrap(), PASSWORD);
}

#[test]
fn a_password_in_the_link_is_seen_by_nobody_and_anonymous_users_are_asked_for_nothing() {
    let desktop = Desktop::new(Bench::new());
    fs::write(desktop.bench.path("secret"), PASSWORD).unwrap();
    let script = "
        ftpsfs open ftps://me:$(cat @DIR/secret)@127.0.0.1:@PORT/ || exit
        mounts
        done_with me@127.0.0.1:@PORT";
    let looks =
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null >>@DIR/tmp/seen\nanswer=$(";
    desktop.has("zenity", &DIALOG.replace("answer=$(", looks));
    let text = desktop.said(&["0"], script);
    assert!(text.ends_with("\n1\n"), "{text}");
    assert_eq!(
        desktop.asked().len(),
        1,
        "only the certificate is asked about"
    );
    desktop.has_seen_no_password();

    let users = || Users::Listed(vec![(b"anonymous".to_vec(), Secret::new("anonymous@"))]);
    let open_to_all = Desktop::new(Bench::with(|config| config.users = users()));
    let script = "
        ftpsfs open ftps://127.0.0.1:@PORT/ && ftpsfs open ftps://anonymous@127.0.0.1:@PORT && mounts
        done_with 127.0.0.1:@PORT";
    let text = open_to_all.said(&["0"], script);
    assert!(text.ends_with("\n1\n"), "{text}");
    assert_eq!(open_to_all.asked().len(), 1);
}

#[test]
fn where_nobody_may_come_in_without_a_name_it_is_asked_for() {
    let desktop = Desktop::new(Bench::new());
    let script = "
        ftpsfs open ftps://127.0.0.1:@PORT/ || exit
        ftpsfs open ftps://127.0.0.1:@PORT/with%20blank || exit
        mounts
        done_with me@127.0.0.1:@PORT";
    let text = desktop.said(&["0", &typed("me"), &typed(PASSWORD), "1"], script);
    assert!(text.ends_with("\n1\n"), "{text}");
    let asked = desktop.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    has_all(
        &asked[1],
        &[
            "--entry",
            "lets nobody in without a name: 530",
            "User name:",
        ],
    );
    assert!(!asked[1].contains("--hide-text"), "{asked:?}");
}

#[test]
fn what_is_wrong_stands_in_a_dialog_and_nothing_is_left_mounted() {
    let desktop = Desktop::new(Bench::new());
    let script = |url: &str| format!("ftpsfs open {url}; echo code $?; mounts; ls $at; true");
    let wrong = [
        ("ftps://127.0.0.1:1/", "code 32", "cannot connect to"),
        ("ftp://127.0.0.1/", "code 1", "plain FTP is never spoken"),
        ("-o usrname=x ftps://h/", "code 1", "is `username` meant?"),
    ];
    for (url, code, phrase) in wrong {
        let text = desktop.said(&["0"], &script(url));
        has_all(&text, &[code, "\n0\n", phrase]);
        let asked = desktop.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        has_all(&asked[0], &["zenity --error", phrase]);
    }
    let missing = script("ftps://me@127.0.0.1:@PORT/nowhere");
    let text = desktop.said(&[&typed(PASSWORD), "0", "1", "0"], &missing);
    has_all(
        &text,
        &[
            "code 32\n0\nftpsfs: ",
            "/nowhere: no such file or directory",
        ],
    );
    has_all(
        desktop.asked().last().unwrap(),
        &["zenity --error", "/nowhere: no such file"],
    );
    desktop.lacks("xdg-open");
    let bare = script("ftps://me@127.0.0.1:@PORT/")
        .replace("ftpsfs open", "PATH=@DIR/programs @DIR/ftpsfs open");
    let text = desktop.said(&[&typed(PASSWORD), "1", "0"], &bare);
    has_all(&text, &["code 2\n0\nftpsfs: xdg-open is missing"]);
}

#[test]
fn two_clicks_at_the_same_moment_ask_and_mount_once() {
    let desktop = Desktop::new(Bench::new());
    desktop.has(
        "zenity",
        &DIALOG.replace("answer=$(", "sleep 0.5\nanswer=$("),
    );
    let script = "
        ftpsfs open ftps://me@127.0.0.1:@PORT/ & first=$!
        ftpsfs open ftps://me@127.0.0.1:@PORT/ || exit
        wait $first || exit
        mounts
        done_with me@127.0.0.1:@PORT";
    let text = desktop.said(&[&typed(PASSWORD), "0", "1"], script);
    assert!(text.ends_with("\n1\n"), "{text}");
    assert_eq!(desktop.asked().len(), 3);
    assert_eq!(desktop.lines("shown").len(), 2);
    // The second one has nothing to add where the first was cancelled.
    let script = "
        ftpsfs open ftps://me@127.0.0.1:@PORT/ & first=$!
        sleep 0.2
        ftpsfs open ftps://me@127.0.0.1:@PORT/; echo code $?
        wait $first; echo code $?";
    let text = desktop.said(&["1"], script);
    has_all(&text, &["code 32\ncode 32\n"]);
    assert_eq!(desktop.asked().len(), 1);
}

#[test]
fn a_dead_mount_is_cleared_by_the_next_click() {
    let desktop = Desktop::new(Bench::new());
    let script = "
        ftpsfs open ftps://me@127.0.0.1:@PORT/ || exit
        pkill -9 -u 4321 -f \"mount --report.*$at\"
        until ! stat ${at}me@127.0.0.1:@PORT >/dev/null 2>&1; do sleep 0.1; done
        ftpsfs open ftps://me@127.0.0.1:@PORT/ || exit
        mounts
        done_with me@127.0.0.1:@PORT";
    let password = typed(PASSWORD);
    let text = desktop.said(&[&password, "0", "1", &password, "1"], script);
    assert!(text.ends_with("\n1\n"), "{text}");
}

#[test]
fn kdialog_or_the_terminal_asks_where_there_is_no_zenity() {
    let desktop = Desktop::new(Bench::new());
    desktop.lacks("zenity");
    desktop.has("kdialog", DIALOG);
    let script = "ftpsfs open ftps://me@127.0.0.1:@PORT/; mounts; done_with me@127.0.0.1:@PORT";
    // A machine that has zenity of its own is a KDE for this test.
    let script = format!("export XDG_CURRENT_DESKTOP=KDE; {script}");
    let text = desktop.said(&[&typed("wrong"), "0", &typed(PASSWORD), "1"], &script);
    assert!(text.ends_with("\n1\n"), "{text}");
    let asked = desktop.asked();
    has_all(
        &asked[0],
        &["kdialog --title ftpsfs --password <qt>Password for me@127.0.0.1:</qt>"],
    );
    has_all(
        &asked[1],
        &[
            "--warningcontinuecancel <qt>It is not certain",
            "--continue-label Trust it",
        ],
    );
    has_all(&asked[2], &["--password <qt>The server refuses: 530"]);

    desktop.lacks("kdialog");
    desktop.lacks("secret-tool");
    let known = desktop.known_hosts();
    fs::remove_file(known).unwrap();
    // No screen, but a terminal.
    let typing = format!("(sleep 1; echo {PASSWORD}; sleep 1; echo yes; sleep 2)");
    let inside = "ftpsfs open ftps://me@127.0.0.1:@PORT/";
    let script = format!(
        "unset DISPLAY
        {typing} | script -qec \"{inside}\" /dev/null
        mounts
        done_with me@127.0.0.1:@PORT
        ftpsfs open ftps://me@127.0.0.1:@PORT/; echo code $?"
    );
    let text = desktop.said(&[], &script);
    has_all(
        &text,
        &[
            "Password for me@127.0.0.1:",
            "Trust it? (yes/no)",
            "\n1\ncode 2\n",
        ],
    );
    has_all(
        &text,
        &["nobody can be asked: `Password for me@127.0.0.1:`; install zenity or kdialog"],
    );
    assert!(!text.contains(PASSWORD), "{text}");
    assert_eq!(desktop.asked(), Vec::<String>::new());
}

#[test]
fn the_desktop_entry_is_valid_and_calls_what_there_is() {
    let entry = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/desktop/ftpsfs.desktop");
    let output = succeed(Command::new("desktop-file-validate").arg(&entry));
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let text = fs::read_to_string(entry).unwrap();
    has_all(
        &text,
        &["MimeType=x-scheme-handler/ftps;x-scheme-handler/ftpes;\n"],
    );
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Exec=ftpsfs "))
        .unwrap();
    assert_eq!(line, "open %u");
    let help = succeed(Command::new(env!("CARGO_BIN_EXE_ftpsfs")).args(["open", "--help"]));
    has_all(
        &String::from_utf8_lossy(&help.stdout),
        &["ftpsfs open [OPTIONS] <URL>"],
    );
}

#[test]
fn a_slow_goodbye_does_not_hold_up_the_folder() {
    let faults = Faults::new("QUIT always: stall".parse().unwrap());
    let desktop = Desktop::new(Bench::with(|config| config.faults = Some(faults)));
    let script = "
        timeout 15 ftpsfs open ftps://me@127.0.0.1:@PORT/ && mounts
        done_with me@127.0.0.1:@PORT";
    let text = desktop.said(&[&typed(PASSWORD), "0", "1"], script);
    assert!(text.ends_with("\n1\n"), "{text}");
}
