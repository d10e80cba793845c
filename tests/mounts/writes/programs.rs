//! Programs as people run them, on a mount of every server. Each checks its own result; the server's folder is
//! looked at where a program could not tell.

use super::{mounted, script, stored};
use crate::common::mount::Mount;
use crate::common::server::Kind;
use crate::common::{full, tree};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A local folder of ordinary files, some of them old.
fn source() -> tempfile::TempDir {
    let source = tempfile::tempdir().expect("make a folder");
    for index in 0..60_u64 {
        let path = format!("d{}/e{}/f{index}", index % 5, index % 3);
        let bytes = tree::bytes(index, index as usize * 700);
        tree::put(
            &source.path().join(path),
            &bytes,
            Duration::from_secs(86_400 * index),
        );
    }
    source
}

/// Runs a script in the mount, to which `$source` is a local folder.
fn script_from(mount: &Mount, source: &Path, text: &str) -> String {
    script(mount, &format!("source='{}'\n{text}", source.display()))
}

pub fn rsync(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let source = source();
    script_from(
        &mount,
        source.path(),
        r#"
        moved() { sed -n 's/^Number of regular files transferred: //p'; }
        test "$(rsync -a --delete --stats "$source/" synced | moved)" = 60
        diff -r "$source" synced
        test -z "$(rsync -ai --delete "$source/" synced)"
        test "$(rsync -a --delete --stats "$source/" synced | moved)" = 0

        rm -r "$source/d1"; echo changed > "$source/d0/e0/f0"; touch -d 2001-02-03 "$source/d2/e2/f2"
        test "$(rsync -a --delete --stats "$source/" synced | moved)" = 2
        diff -r "$source" synced
        test -z "$(rsync -ai --delete "$source/" synced)"

        head -c 3000000 /dev/urandom > "$source/big"
        rsync -a "$source/big" big
        printf middle | dd of="$source/big" conv=notrunc bs=1 seek=1500000 status=none
        echo end >> "$source/big"
        touch -d 2002-03-04 "$source/big"
        rsync -a --inplace --no-whole-file "$source/big" big
        cmp "$source/big" big
        test -z "$(rsync -ai --inplace "$source/big" big)"
        "#,
    );
    let there = fs::read(server.root.join("big")).expect("read there");
    assert!(there == fs::read(source.path().join("big")).expect("read"));
    assert_eq!(stored(&server.root), ["big", "synced"]);
}

pub fn copies(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let source = source();
    script_from(
        &mount,
        source.path(),
        r#"
        times() { (cd "$1"; find . -type f -printf '%P %s %Ts %m\n' | sort); }
        same() { diff -r "$source" "$1"; diff <(times "$source") <(times "$1"); }
        cp -a "$source" copied; same copied
        cp -r copied again; diff -r copied again
        tar cf all.tar -C "$source" .; mkdir out; tar xf all.tar -C out; same out
        tar czf - -C "$source" . | (mkdir piped; tar xzf - -C piped); same piped
        (cd copied; zip -qr ../all.zip .); unzip -qt all.zip; unzip -q all.zip -d unzipped; same unzipped
        (cd copied; echo more > d0/new; zip -q ../all.zip d0/new; zip -qd ../all.zip d0/e0/f0); unzip -qt all.zip
        mv copied moved; rm -r again out piped unzipped all.tar all.zip moved
        "#,
    );
    assert_eq!(stored(&server.root), [""; 0]);
}

pub fn odd_names(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let source = tempfile::tempdir().expect("make a folder");
    tree::odd(source.path(), kind);
    // Pure-FTPd makes an underscore of a name's last space.
    if kind == Kind::PureFtpd {
        let mut find = std::process::Command::new("find");
        find.arg(source.path())
            .args(["-depth", "-name", "* ", "-exec", "rm", "-r", "{}", ";"]);
        crate::common::command::run_soon(&mut find).text();
    }
    script_from(
        &mount,
        source.path(),
        r#"
        cp -a "$source" odd; diff -r "$source" odd
        test -z "$(rsync -ai --delete "$source/" odd)"
        cp -r odd/files again; diff -r "$source/files" again; rm -r again
        "#,
    );
    let mut diff = std::process::Command::new("diff");
    diff.arg("-r")
        .arg(source.path())
        .arg(server.root.join("odd"));
    let compared = crate::common::command::run_soon(&mut diff);
    assert_eq!(compared.text(), "");
    script(&mount, "rm -r odd");
    assert_eq!(stored(&server.root), [""; 0]);
}

/// Pure-FTPd would make `a_` of `a `, and replace what is called so.
#[test]
fn a_name_that_the_server_would_change_replaces_no_other() {
    let (server, mount) = mounted(Kind::PureFtpd, "");
    script(
        &mount,
        r#"
        echo mine > a_; echo other > b; mkdir c_
        fails cp b 'a '; fails mv b 'a '; fails mkdir 'c '; fails mv c_ 'd '
        test "$(cat a_ b)" = "mine
other"
        "#,
    );
    assert_eq!(stored(&server.root), ["a_", "b", "c_"]);
}

pub fn small_tools(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    script(
        &mount,
        r#"
        umask 022
        echo text > f
        install -D -m 750 f usr/bin/f; install -m 600 -p f g; install -m 644 /dev/null usr/bin/f
        test "$(stat -c '%a %s' usr/bin/f g)" = "644 0
600 5"
        install -b -m 640 f g; cmp g g~

        t=$(mktemp -p .); test -f "$t"; test "$(stat -c %a "$t")" = 600; rm "$t"
        d=$(mktemp -d -p .); test -d "$d"; touch "$d/x"; rm -r "$d"
        test "$(mktemp -p . -u)" != "$t"

        dd if=/dev/urandom of=disk bs=64k count=32 status=none; cp disk /tmp/$$.disk
        for place in 0 5 4096 1000000 2097140; do
            for file in disk /tmp/$$.disk; do
                printf 0123456789ab | dd of="$file" conv=notrunc bs=1 seek=$place status=none
            done
        done
        cmp disk /tmp/$$.disk
        for file in disk /tmp/$$.disk; do
            printf far | dd of="$file" conv=notrunc bs=1 seek=2500000 status=none
            dd if=/dev/zero of="$file" conv=notrunc,fsync bs=4k seek=3 count=2 status=none
        done
        cmp disk /tmp/$$.disk; rm /tmp/$$.disk
        truncate -s 1M disk; truncate -s +10 disk; test "$(stat -c %s disk)" = 1048586
        fallocate -l 2M disk; test "$(stat -c %s disk)" = 2097152

        python3 - <<'PYTHON'
import os
# No holes are known: all is data, and the only hole is the end.
with open('disk', 'r+b') as file:
    file.truncate(5000000)
    fd, end = file.fileno(), 5000000
    assert [os.lseek(fd, 7, how) for how in (os.SEEK_DATA, os.SEEK_HOLE)] == [7, end]
    for how in os.SEEK_DATA, os.SEEK_HOLE:
        try:
            os.lseek(fd, end, how)
        except OSError as error:
            assert error.errno == 6, error
        else:
            raise AssertionError('there is nothing beyond the end')
    os.lseek(fd, 4000000, os.SEEK_SET)
    os.write(fd, b'beyond a hole')
assert os.path.getsize('disk') == end
PYTHON
        for sparse in auto always never; do cp --sparse=$sparse disk copy; cmp disk copy; done; rm copy
        truncate -s 3M sparse; cp sparse copy; cmp sparse copy; rm sparse copy

        sed -i 's/text/other/' f; test "$(cat f)" = other
        sed -i.orig 's/other/third/' f; test "$(cat f f.orig)" = "third
other"
        split -b 100000 disk part.; cat part.* | cmp - disk; rm part.*
        sort -o f -u f f f; tee -a f < f.orig > /dev/null; test "$(wc -l < f)" = 2
        patch_of() { diff -u f f.orig || true; }
        patch_of > p; test -s p
        "#,
    );
    assert_eq!(
        stored(&server.root),
        ["disk", "f", "f.orig", "g", "g~", "p", "usr"]
    );
}

pub fn git(kind: Kind) {
    let (_server, mount) = mounted(kind, "");
    let commits = if full() { 12 } else { 3 };
    script(
        &mount,
        &r#"
        git init -q repo; cd repo
        git config user.email a@b; git config user.name me
        for i in $(seq 10); do mkdir -p d$i; echo "file $i" > "d$i/f"; done
        git add .; git commit -qm first
        for n in $(seq COMMITS); do echo "$n" >> d1/f; git commit -qam "commit $n"; done
        git checkout -qb other; git mv d2 moved; git commit -qm moved; git checkout -q -
        git merge -q --no-edit other; git tag -a -m tag v1
        git stash list; echo dirty >> d3/f; git stash -q; git stash pop -q; git checkout -q d3/f
        git gc -q; git fsck --full --strict; git repack -adq; git fsck --full
        test -z "$(git status --porcelain)"
        cd ..
        git clone -q repo clone; diff -r -x .git repo clone
        git clone -q --bare repo bare.git
        cd clone; git config user.email a@b; git config user.name me
        git remote add bare ../bare.git
        echo pushed > pushed; git add pushed; git commit -qm pushed; git push -q bare HEAD
        git gc -q --prune=now; git fsck --full --strict
        git -C ../bare.git fsck --full --strict
        cd ..; rm -rf repo clone bare.git; test -z "$(ls -A)"
        "#
        .replace("COMMITS", &commits.to_string()),
    );
}

pub fn editors(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    script(
        &mount,
        r#"
        umask 022
        for how in yes no auto; do
            printf 'one\ntwo\n' > f; chmod 640 f
            vim -u NONE -N -i NONE -es -c "set backupcopy=$how backupskip= backup writebackup fsync swapfile" \
                -c '%s/two/three/' -c 'w' -c '%s/one/1/' -c 'wq' f
            test "$(cat f)" = "1
three"
            test "$(stat -c %a f)" = 640; test -f f~; rm f~
        done
        vim -u NONE -N -i NONE -es -c 'normal ihello' -c wq new; test "$(cat new)" = hello

        export TERM=xterm
        python3 - <<'PTY'
import os, pty, select, sys, time

def nano(arguments, steps):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp('nano', ['nano', '--ignorercfiles', *arguments])
    for wait, keys in steps:
        seen, until = b'', time.monotonic() + 40
        while wait not in seen:
            if not select.select([terminal], [], [], max(0, until - time.monotonic()))[0]:
                sys.exit(f'nano did not show {wait!r}: {seen[-2000:]!r}')
            seen += os.read(terminal, 65536)
        os.write(terminal, keys)
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass
    status = os.waitpid(pid, 0)[1]
    if status:
        sys.exit(f'nano: {status}')

# ^O saves, the return takes the name, ^X leaves.
nano(['f'], [(b'Help', b'typed \x0f'), (b'Write', b'\r'), (b'Wrote', b'\x18')])
nano(['-B', 'fresh'], [(b'Help', b'fresh\x0f'), (b'Write', b'\r'), (b'Wrote', b' again\x0f'), (b'Write', b'\r'),
                       (b'Wrote', b'\x18')])
PTY
        test "$(cat f fresh)" = "typed 1
three
fresh again"
        "#,
    );
    let names = stored(&server.root);
    let unexpected: Vec<_> = names
        .iter()
        .filter(|name| !["f", "fresh", "fresh~", "new"].contains(&name.as_str()))
        .collect();
    assert!(unexpected.is_empty(), "left behind: {unexpected:?}");
}

pub fn sqlite(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let rows = if full() { 20_000 } else { 2000 };
    for mode in ["delete", "truncate", "persist", "wal"] {
        let text = r#"
        db=MODE.db
        test "$(sqlite3 $db 'pragma journal_mode=MODE')" = MODE
        sqlite3 -bail $db <<'SQL'
create table t (a integer primary key, b text);
create index i on t (b);
begin;
with recursive n (x) as (select 1 union all select x + 1 from n where x < ROWS)
    insert into t (b) select hex(x * 7919) || printf('%.*c', x % 300, 'x') from n;
commit;
delete from t where a % 3 = 0;
update t set b = b || 'y' where a % 5 = 0;
begin; delete from t; rollback;
SQL
        # Two at once: locks are local to the mount, so each waits for the other.
        for who in a b; do
            for i in 1 2 3; do sqlite3 -cmd '.timeout 60000' $db "insert into t (b) values ('$who$i')"; done &
        done
        wait
        test "$(sqlite3 $db 'select count(*) from t')" = $((ROWS - ROWS / 3 + 6))
        test "$(sqlite3 $db 'pragma integrity_check')" = ok
        sqlite3 $db vacuum; test "$(sqlite3 $db 'pragma integrity_check')" = ok
        "#;
        let text = text
            .replace("MODE", mode)
            .replace("ROWS", &rows.to_string());
        script(&mount, &text);
        // The server's own copy, as another machine would open it.
        let local = tempfile::tempdir().expect("make a folder");
        for name in stored(&server.root) {
            fs::copy(server.root.join(&name), local.path().join(&name)).expect("copy");
        }
        let mut check = std::process::Command::new("sqlite3");
        check
            .arg(local.path().join(format!("{mode}.db")))
            .arg("pragma integrity_check");
        let checked = crate::common::command::run_soon(&mut check);
        assert_eq!(checked.text(), "ok\n", "{mode}");
    }
}

pub fn make(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    script(
        &mount,
        r#"
        printf 'int twice(int n);\n' > twice.h
        printf '#include "twice.h"\nint twice(int n) { return 2 * n; }\n' > twice.c
        printf '#include <stdio.h>\n#include "twice.h"\nint main(void) { printf("%%d\\n", twice(21)); return 0; }\n' > main.c
        printf 'int unused;\n' > unused.c
        cat > Makefile <<'MAKE'
program: main.o twice.o libunused.a
	$(CC) -g -o $@ main.o twice.o -L. -lunused
libunused.a: unused.o
	$(AR) rcs $@ $^
main.o twice.o: twice.h
clean:
	rm -f program *.o *.a
MAKE
        make -s -j2; test "$(./program)" = 42
        make -q
        sleep 1.1; sed -i 's/2 \* n/3 * n/' twice.c
        fails make -q; make -s; test "$(./program)" = 63; make -q
        strip program; test "$(./program)" = 63
        make -s clean
        "#,
    );
    assert_eq!(
        stored(&server.root),
        ["Makefile", "main.c", "twice.c", "twice.h", "unused.c"]
    );
}

/// What an office program does on Save: a lock file, a temporary file, a backup, and the document over its old self.
pub fn libreoffice(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let profile = tempfile::tempdir().expect("make a folder");
    let text = r#"
        umask 022
        export HOME='PROFILE'
        # The distribution's own Python has LibreOffice's module.
        /usr/bin/python3 - <<'PYTHON'
import os, subprocess, sys, time, uno
from com.sun.star.beans import PropertyValue

def option(name, value):
    return PropertyValue(name, 0, value, 0)

pipe = f'ftpsfs-{os.getpid()}'
office = subprocess.Popen(['soffice', '--headless', '--norestore', '-env:UserInstallation=file://PROFILE',
                           f'--accept=pipe,name={pipe};urp'])
local = uno.getComponentContext()
resolver = local.ServiceManager.createInstanceWithContext('com.sun.star.bridge.UnoUrlResolver', local)
until = time.monotonic() + 90
while True:
    try:
        context = resolver.resolve(f'uno:pipe,name={pipe};urp;StarOffice.ComponentContext')
        break
    except Exception:
        if time.monotonic() > until or office.poll() is not None:
            sys.exit('LibreOffice did not start')
        time.sleep(0.2)
desktop = context.ServiceManager.createInstanceWithContext('com.sun.star.frame.Desktop', context)
here = 'file://' + os.getcwd()

def load(url):
    return desktop.loadComponentFromURL(url, '_blank', 0, (option('Hidden', True),))

document = load('private:factory/swriter')
document.Text.String = 'first'
document.storeAsURL(f'{here}/letter.odt', ())
assert '.~lock.letter.odt#' in os.listdir('.'), os.listdir('.')
for text in 'second', 'third ' * 50000:
    document.Text.String = text
    document.store()
document.close(True)
document = load(f'{here}/letter.odt')
assert document.Text.String == 'third ' * 50000
document.Text.String = 'fourth'
document.store()
document.storeToURL(f'{here}/letter.docx', (option('FilterName', 'MS Word 2007 XML'),))
document.close(True)
try:
    desktop.terminate()
except Exception:
    pass
office.wait(60)
PYTHON
        unzip -qt letter.odt; unzip -qt letter.docx
        unzip -p letter.odt content.xml | grep -q fourth
        unzip -p letter.docx word/document.xml | grep -q fourth
        "#;
    script(
        &mount,
        &text.replace("PROFILE", &profile.path().display().to_string()),
    );
    assert_eq!(stored(&server.root), ["letter.docx", "letter.odt"]);
}

/// Shells that append to one file, each write a process and an open of its own.
pub fn appending_shells(kind: Kind) {
    let (server, mount) = mounted(kind, "");
    let lines = if full() { 200 } else { 20 };
    let text = r#"
        for shell in a b; do
            bash -c "for i in \$(seq LINES); do echo $shell\$i >> log; done" &
        done
        # One keeps it open all the while.
        (exec >> log; for i in $(seq LINES); do echo "c$i"; done) &
        wait
        test "$(wc -l < log)" = $((3 * LINES))
        for shell in a b c; do test "$(grep "^$shell" log)" = "$(seq -f "$shell%.0f" LINES)"; done
        "#;
    script(&mount, &text.replace("LINES", &lines.to_string()));
    let there = fs::read_to_string(server.root.join("log")).expect("read there");
    assert_eq!(there.lines().count(), 3 * lines);
}
