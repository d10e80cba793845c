//! The commands on files, the listings, and that nothing outside the folder is within reach.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use ftpsfs::proto::Security::Implicit;

use crate::client::{Client, serve, serve_with, text};

/// 2002-07-17 21:07:15 UTC.
const TIME: u64 = 1_026_940_035;

/// Lines of a listing, sorted.
fn lines(listing: &[u8]) -> Vec<String> {
    assert!(listing.is_empty() || listing.ends_with(b"\r\n"));
    let text = String::from_utf8_lossy(listing).into_owned();
    let mut lines: Vec<_> = text.split_terminator("\r\n").map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn every_advertised_feature_works() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    let features = client.ask("FEAT", 211).lines;
    for line in &features[1..features.len() - 1] {
        match line.trim_start() {
            "LANG EN*" => drop(client.ask("LANG EN", 200)),
            "UTF8" => drop(client.ask("OPTS UTF8 ON", 200)),
            "AUTH TLS;SSL;" | "CCC" | "HOST" => {} // In `security`.
            "PBSZ" => drop(client.ask("PBSZ 0", 200)),
            "PROT C;P;" => {
                client.ask("PROT C", 200);
                client.ask("PROT P", 200);
            }
            "SIZE" => assert_eq!(client.ask("SIZE hello", 213).lines, ["213 10"]),
            "MDTM" => {
                set_time(served.path().join("hello"), TIME);
                let reply = client.ask("MDTM hello", 213);
                assert_eq!(reply.lines, ["213 20020717210715"]);
            }
            "REST STREAM" => {
                client.ask("REST 4", 350);
                assert_eq!(client.download("RETR hello"), b"456789");
                assert_eq!(client.download("RETR hello"), b"0123456789");
            }
            "MFMT" => {
                let reply = client.ask("MFMT 20020717210715 sub/inner", 213);
                assert!(reply.lines[0].contains("Modify=20020717210715; sub/inner"));
                assert_eq!(time(&served, "sub/inner"), TIME);
            }
            "MFF modify;UNIX.mode;" => {
                client.ask("MFF modify=20020717210716;UNIX.mode=0640; hello", 213);
                assert_eq!(time(&served, "hello"), TIME + 1);
                assert_eq!(mode(&served, "hello"), 0o640);
                client.ask("MFF UNIX.mode=0600;unix.owner=root; hello", 504);
                assert_eq!(mode(&served, "hello"), 0o640);
            }
            "EPSV" => assert_eq!(client.download("RETR sub/inner"), b"inner"),
            "EPRT" => {} // In `data`.
            "TVFS" => {
                client.ask("CWD /sub/../sub/./", 250);
                client.ask("SIZE ../hello", 213);
                client.ask("SIZE /../../hello", 213);
                client.ask("CDUP", 200);
            }
            "AVBL" => {
                let reply = client.ask("AVBL", 213);
                assert!(reply.lines[0][4..].parse::<u64>().unwrap() > 0);
            }
            "SITE CHMOD" => {
                client.ask("SITE CHMOD 600 hello", 250);
                assert_eq!(mode(&served, "hello"), 0o600);
            }
            "SITE UTIME" => {
                let times = "20020717210715 20020717210715 20020717210715";
                client.ask(format!("SITE UTIME hello {times} UTC"), 250);
                assert_eq!(time(&served, "hello"), TIME);
            }
            "SITE SYMLINK" => {
                client.ask("SITE SYMLINK hello link", 250);
                assert_eq!(client.download("RETR link"), b"0123456789");
            }
            line if line.starts_with("MLST ") => {
                let reply = client.ask("OPTS MLST size;Type;nonsense;", 200);
                assert_eq!(reply.lines, ["200 MLST OPTS type;size;"]);
                let reply = client.ask("MLST hello", 250);
                assert_eq!(reply.lines[1], " type=file;size=10; /hello");
                assert_eq!(reply.lines.len(), 3);
                client.ask("OPTS MLST", 200);
                assert_eq!(client.ask("MLST hello", 250).lines[1], "  /hello");
                let marked = &client.ask("FEAT", 211).lines[11];
                assert!(marked.starts_with(" MLST type;size;"), "{marked}");
            }
            other => panic!("no test for the feature {other}"),
        }
    }
}

fn set_time(path: impl AsRef<std::path::Path>, seconds: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    file.set_modified(time).unwrap();
}

fn time(served: &crate::client::Served, name: &str) -> u64 {
    let metadata = served.path().join(name).metadata().unwrap();
    metadata.mtime().cast_unsigned()
}

fn mode(served: &crate::client::Served, name: &str) -> u32 {
    let metadata = served.path().join(name).metadata().unwrap();
    metadata.permissions().mode() & 0o7777
}

#[test]
fn verbs_left_out_are_502_and_not_advertised() {
    let served = serve_with(Implicit, |config| {
        config.without = vec!["MLST".into(), "MLSD".into(), "SITE CHMOD".into()];
    });
    let mut client = served.implicit();
    client.ask("MLST hello", 502);
    client.ask("MLSD", 502);
    client.ask("SITE CHMOD 600 hello", 502);
    let features = client.ask("FEAT", 211).lines.join("\n");
    assert!(!features.contains("MLST") && !features.contains("CHMOD"));
    assert!(features.contains("SITE UTIME"));
}

/// A tree with links that lead out, in every way there is.
fn trapped() -> (crate::client::Served, tempfile::TempDir) {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let served = serve(Implicit);
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    let inside = |link: &str| served.path().join(link);
    symlink(outside.path(), inside("absolute")).unwrap();
    symlink(outside.path().join("secret"), inside("file")).unwrap();
    symlink(format!("../{name}"), inside("relative")).unwrap();
    symlink(outside.path().join("new"), inside("dangling")).unwrap();
    symlink("/proc/self/root", inside("magic")).unwrap();
    (served, outside)
}

#[test]
fn links_that_lead_out_lead_nowhere() {
    let (served, outside) = trapped();
    let secret = outside.path().join("secret");
    let before = secret.metadata().unwrap();
    let mut client = served.implicit();
    for path in [
        "absolute/secret",
        "relative/secret",
        "file",
        "magic/etc/passwd",
        "../../../../../../etc/passwd",
        "/etc/passwd",
    ] {
        for command in ["RETR", "SIZE", "MDTM"] {
            client.ask(format!("{command} {path}"), 550);
        }
        client.ask(format!("SITE CHMOD 777 {path}"), 550);
        client.ask(format!("MFMT 20020717210715 {path}"), 550);
        client.ask(format!("APPE {path}"), 550);
    }
    for folder in ["absolute", "relative", "magic"] {
        client.ask(format!("CWD {folder}"), 550);
        client.ask(format!("MKD {folder}/made"), 550);
        client.ask(format!("DELE {folder}/secret"), 550);
        client.ask(format!("RNFR {folder}/secret"), 550);
        client.ask(format!("STOR {folder}/new"), 550);
        client.ask("RNFR hello", 350);
        client.ask(format!("RNTO {folder}/hello"), 550);
    }
    client.ask("STOR dangling", 550);
    // The links themselves are shown, moved and removed as what they are.
    let listing = client.download("LIST");
    assert!(text(&listing).contains(&format!("file -> {}", secret.display())));
    client.ask("DELE file", 250);
    let after = secret.metadata().unwrap();
    assert_eq!(before.mtime(), after.mtime());
    assert_eq!(before.mode(), after.mode());
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(served.content("hello"), b"0123456789");
}

#[test]
fn links_within_the_folder_are_followed() {
    let served = serve(Implicit);
    symlink("sub", served.path().join("relative")).unwrap();
    // Absolute targets mean the served folder, as in a chroot.
    symlink("/sub/inner", served.path().join("absolute")).unwrap();
    let mut client = served.implicit();
    assert_eq!(client.download("RETR relative/inner"), b"inner");
    assert_eq!(client.download("RETR absolute"), b"inner");
    client.ask("CWD relative", 250);
    client.ask("SIZE inner", 213);
    client.upload("STOR /absolute", b"changed");
    assert_eq!(served.content("sub/inner"), b"changed");
}

/// RFC 3659 section 7.
#[test]
fn mlsd_tells_all_there_is() {
    let served = serve(Implicit);
    set_time(served.path().join("hello"), TIME);
    let mode = std::fs::Permissions::from_mode(0o4640);
    std::fs::set_permissions(served.path().join("hello"), mode).unwrap();
    symlink("sub/inner", served.path().join("link")).unwrap();
    symlink("not a fact;", served.path().join("odd")).unwrap();
    std::fs::write(served.path().join(".hidden"), "").unwrap();
    for name in [
        &b"latin \xe9"[..],
        b" spaces  ",
        b"[a]*?#%\"\\",
        b"-rf",
        b"a\rb",
        b"a\nb",
    ] {
        std::fs::write(served.path().join(OsStr::from_bytes(name)), "").unwrap();
    }
    let mut client = served.implicit();
    let raw = client.download("MLSD");
    let has = |name: &[u8]| raw.windows(name.len()).any(|part| part == name);
    assert!(has(b"; latin \xe9\r\n"));
    let entries = lines(&raw);
    let entry = |name: &str| {
        let ending = format!("; {name}");
        let mut found = entries.iter().filter(|line| line.ends_with(&ending));
        let line = found
            .next()
            .unwrap_or_else(|| panic!("{name} in {entries:#?}"));
        assert!(found.next().is_none());
        line.as_str()
    };
    let hello = entry("hello");
    assert!(hello.starts_with("type=file;size=10;modify=20020717210715;perm=adfrw;unique="));
    let metadata = served.path().join("hello").metadata().unwrap();
    let owner = format!(
        "UNIX.mode=4640;UNIX.uid={};UNIX.gid={}; hello",
        metadata.uid(),
        metadata.gid()
    );
    assert!(hello.ends_with(&owner), "{hello}");
    assert!(entry("sub").starts_with("type=dir;modify="));
    assert!(entry("sub").contains(";perm=cdeflmp;"));
    assert!(entry(".").starts_with("type=cdir;modify="));
    assert!(entry("link").starts_with("type=OS.unix=slink:sub/inner;"));
    assert!(entry("odd").starts_with("type=OS.unix=slink:;"));
    for name in [".hidden", " spaces  ", "[a]*?#%\"\\", "-rf"] {
        entry(name);
    }
    // hello, sub, ., link, odd, .hidden and four odd names; those with CR or LF cannot be told.
    assert_eq!(entries.len(), 10, "{entries:#?}");

    assert_eq!(lines(&client.download("MLSD sub")).len(), 2);
    client.ask("MLSD hello", 501);
    client.ask("MLSD missing", 550);
    let link = client.ask("MLST link", 250).lines.remove(1);
    assert!(link.starts_with(" type=OS.unix=slink:sub/inner;") && link.ends_with("; /link"));
    assert!(client.ask("MLST", 250).lines[1].starts_with(" type=dir;"));
    client.ask("MLST missing", 550);
}

#[test]
fn list_is_as_ls_has_it() {
    let served = serve(Implicit);
    let hello = served.path().join("hello");
    set_time(&hello, TIME);
    std::fs::set_permissions(&hello, std::fs::Permissions::from_mode(0o640)).unwrap();
    let sub = std::fs::Permissions::from_mode(0o1775);
    std::fs::set_permissions(served.path().join("sub"), sub).unwrap();
    symlink("hello", served.path().join("link")).unwrap();
    std::fs::write(served.path().join(".hidden"), "").unwrap();
    let mut client = served.implicit();
    let listing = lines(&client.download("LIST"));
    let words = |name: &str| -> Vec<String> {
        let line = listing.iter().find(|line| line.contains(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words(" hello")[..2], ["-rw-r-----", "1"]);
    assert_eq!(words(" hello")[4..], ["10", "Jul", "17", "2002", "hello"]);
    assert_eq!(words(" sub")[0], "drwxrwxr-t");
    assert!(words(" sub")[7].contains(':'), "a recent time");
    assert_eq!(words(" link")[8..], ["link", "->", "hello"]);
    assert_eq!(listing.len(), 4, "{listing:#?}");
    let all = lines(&client.download("LIST -a"));
    assert_eq!(all.len(), 6);
    assert!(all.iter().any(|line| line.ends_with(" .")));
    assert_eq!(lines(&client.download("LIST sub/inner")).len(), 1);
    client.ask("LIST missing", 550);
    assert_eq!(
        lines(&client.download("NLST")),
        [".hidden", "hello", "link", "sub"]
    );

    let stat = client.ask("STAT /", 212).lines;
    assert_eq!(
        lines(
            stat[1..stat.len() - 1]
                .join("\r\n")
                .as_bytes()
                .iter()
                .chain(b"\r\n")
                .copied()
                .collect::<Vec<_>>()
                .as_slice()
        ),
        listing
    );
    assert_eq!(client.ask("STAT hello", 213).lines.len(), 3);
    client.ask("STAT missing", 550);
    client.ask("STAT", 211);
}

#[test]
fn stor_appe_and_rest_place_bytes_where_they_belong() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.upload("STOR new", b"abcdef");
    client.upload("STOR new", b"xyz");
    assert_eq!(served.content("new"), b"xyz");
    client.upload("APPE new", b"123");
    assert_eq!(served.content("new"), b"xyz123");
    client.ask("REST 1", 350);
    client.upload("STOR new", b"YZ");
    assert_eq!(served.content("new"), b"xYZ123");
    client.ask("REST 1", 350);
    client.upload("APPE new", b"!");
    assert_eq!(served.content("new"), b"xYZ123!");
    client.upload("STOR empty", b"");
    assert_eq!(served.content("empty"), b"");
    for command in ["RETR new", "STOR new"] {
        client.ask("REST 8", 350);
        client.passive_address();
        client.ask(command, 554);
    }
    client.ask("REST 1", 350);
    client.ask("STOR absent", 550);
    assert!(!served.path().join("absent").exists());
    client.ask("REST 7", 350);
    assert_eq!(client.download("RETR new"), b"");
    client.ask("TYPE A", 200);
    assert_eq!(client.download("RETR new"), b"xYZ123!");
    client.ask("STOR sub", 550);
    client.ask("STOR missing/new", 550);
    client.ask("RETR sub", 550);
}

#[test]
fn folders_and_names_change() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    let made = client.ask("MKD a \"quoted\" name", 257).lines.remove(0);
    assert_eq!(made, "257 \"/a \"\"quoted\"\" name\"");
    client.ask("CWD a \"quoted\" name", 250);
    let at = client.ask("PWD", 257).lines.remove(0);
    assert_eq!(at, "257 \"/a \"\"quoted\"\" name\"");
    client.ask("CDUP", 200);
    client.ask("MKD sub", 550);
    client.ask("RMD sub", 550);
    client.ask("RMD /", 450);
    client.ask("RMD a \"quoted\" name", 250);
    client.ask("DELE sub", 550);
    client.ask("RNFR missing", 550);
    client.ask("RNTO other", 503);
    client.ask("RNFR hello", 350);
    client.ask("NOOP", 200);
    client.ask("RNTO other", 503);
    // Pipelined, onto an existing name.
    client.send("RNFR hello\r\nRNTO sub/inner\r\nDELE sub/inner\r\nRMD sub\r\n");
    for code in [350, 250, 250, 250] {
        client.expect(code);
    }
    assert_eq!(std::fs::read_dir(served.path()).unwrap().count(), 0);
    client.ask("MKD x".to_owned() + &"y".repeat(255), 553);
    client.ask("DELE missing", 550);
    assert_raw_names(&mut client, &served);
}

fn assert_raw_names(client: &mut Client, served: &crate::client::Served) {
    let name = b"latin \xe9  ";
    client.ask([b"MKD ", &name[..]].concat(), 257);
    assert!(served.path().join(OsStr::from_bytes(name)).is_dir());
    client.ask([b"RMD ", &name[..]].concat(), 250);
}

#[test]
fn a_read_only_server_refuses_every_change() {
    let served = serve_with(Implicit, |config| config.read_only = true);
    let mut client = served.implicit();
    for command in [
        "STOR new",
        "APPE hello",
        "DELE hello",
        "MKD new",
        "RMD sub",
        "MFMT 20020717210715 hello",
        "MDTM 20020717210715 hello",
        "MFF UNIX.mode=0777; hello",
        "SITE CHMOD 777 hello",
        "SITE SYMLINK hello link",
    ] {
        client.ask(command, 550);
    }
    client.ask("RNFR hello", 350);
    client.ask("RNTO new", 550);
    assert_eq!(client.download("RETR hello"), b"0123456789");
    assert!(client.ask("MLST hello", 250).lines[1].contains(";perm=r;"));
}

/// A FIFO would hold a reader without end; only plain files are files here.
#[test]
fn special_files_are_shown_and_never_opened() {
    let served = serve(Implicit);
    let fifo = served.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let mut client = served.implicit();
    for command in ["RETR fifo", "STOR fifo", "APPE fifo", "SIZE fifo"] {
        client.ask(command, 550);
    }
    assert!(client.ask("MLST fifo", 250).lines[1].starts_with(" type=OS.unix=fifo;"));
}

#[test]
fn commands_of_old_are_answered() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    for (command, code) in [
        ("SYST", 215),
        ("HELP", 214),
        ("TYPE I", 200),
        ("TYPE A", 200),
        ("MODE S", 200),
        ("MODE B", 504),
        ("STRU F", 200),
        ("STRU R", 504),
        ("ALLO 100", 202),
        ("ACCT any", 202),
        ("CLNT test", 200),
        ("OPTS NONSENSE", 501),
        ("SITE NONSENSE", 504),
        ("STOU", 502),
        ("noop", 200),
    ] {
        client.ask(command, code);
    }
}
