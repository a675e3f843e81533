//! Small file systems that only the test sees, and that go away with it, however it dies.
//!
//! A test that mounts runs itself again in a mount namespace of its own ([`in_own_mounts`]): when its last process is
//! gone the kernel unmounts everything and detaches the loop devices. The inner process ends when the outer one does:
//! it watches its standard input.
//!
//! The power cut is `EXT4_IOC_SHUTDOWN` with the flag not to write the journal out: from then on nothing reaches the
//! device, and what is not there is lost. Perl makes that call, so that nothing here needs unsafe code.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::pool::say;

/// Set in the inner process.
const INSIDE: &str = "ESKER_KERNEL_MOUNTS";

/// Waits for a line, then cuts the file system of the directory that it has open.
const CUT: &str = r#"open(my $dir, "<", $ARGV[0]) or die "open: $!"; my $flag = pack("L", 2);
    $| = 1; print "armed\n"; <STDIN>; defined(ioctl($dir, 0x8004587d, $flag)) or die "shutdown: $!";"#;

/// Does `run`, the body of the test called `name`, where mounts are private. If there is no such place it is done
/// anyway: mounting then fails, and the test skips what needs it.
pub fn in_own_mounts(name: &str, run: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(1);
        });
        return run();
    }
    let mut unshare = tool("unshare");
    unshare.args(["--mount", "--propagation", "private"]);
    if tool("id").arg("-u").output().is_ok_and(|output| output.stdout != b"0\n") {
        unshare.arg("--map-root-user");
    }
    let mut probe = tool("unshare");
    probe.args(unshare.get_args()).arg("true");
    if tell(probe).is_err() {
        return run();
    }
    unshare.arg(env::current_exe().unwrap()).args([name, "--exact", "--nocapture"]);
    let pipes = unshare.env(INSIDE, "1").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = pipes.stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    say(String::from_utf8_lossy(&output.stderr).trim_end());
    assert!(output.status.success(), "failed, see above");
}

/// A mounted file system. Unmounted when dropped.
pub struct Mounted {
    dir: PathBuf,
}

impl Mounted {
    /// Mounts the ext4 in `image` at `dir`.
    pub fn ext4(image: &Path, dir: &Path, options: &str) -> Result<Self, String> {
        let options = format!("loop,{options}");
        Mounted::new(
            dir,
            &[OsStr::new("-t"), "ext4".as_ref(), "-o".as_ref(), options.as_ref(), image.as_ref()],
        )
    }

    /// Mounts a file system in memory that holds `kib` at `dir`.
    pub fn tmpfs(dir: &Path, kib: u64) -> Result<Self, String> {
        let options = format!("size={kib}k");
        Mounted::new(dir, &["-t", "tmpfs", "-o", &options, "tmpfs"].map(OsStr::new))
    }

    fn new(dir: &Path, arguments: &[&OsStr]) -> Result<Self, String> {
        if env::var_os(INSIDE).is_none() {
            return Err("mount namespaces are not to be had (unshare --mount)".to_owned());
        }
        fs::create_dir_all(dir).unwrap();
        let mut mount = tool("mount");
        mount.args(arguments).arg(dir);
        tell(mount).map(|()| Mounted { dir: dir.to_path_buf() })
    }

    /// Unmounts, as soon as the processes that were killed are gone.
    pub fn unmount(self) -> Result<(), String> {
        let mut told = Ok(());
        for _ in 0..500 {
            let mut umount = tool("umount");
            umount.arg(&self.dir);
            told = tell(umount);
            if told.is_ok() {
                std::mem::forget(self);
                return told;
            }
            thread::sleep(Duration::from_millis(10));
        }
        told
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut umount = tool("umount");
        // Lazily: a busy one goes away with its last user.
        umount.arg("-l").arg(&self.dir);
        let _ = tell(umount);
    }
}

/// Makes an ext4 of `kib` in a new file.
pub fn make_ext4(image: &Path, kib: u64, features: &str) -> Result<(), String> {
    fs::File::create(image).unwrap().set_len(kib << 10).unwrap();
    let mut mkfs = tool("mkfs.ext4");
    mkfs.args(["-q", "-F", "-m", "0"]).args(features.split_whitespace()).arg(image);
    tell(mkfs)
}

/// Repairs an ext4 that has no journal to do it.
pub fn repair_ext4(image: &Path) -> Result<(), String> {
    let mut fsck = tool("e2fsck");
    let output = fsck.args(["-f", "-y"]).arg(image).output().map_err(|error| error.to_string())?;
    // 1: there was something to repair, which is what it is for.
    if matches!(output.status.code(), Some(0 | 1)) { Ok(()) } else { Err(format!("{output:?}")) }
}

/// A power cut that waits for its moment.
pub struct Cut {
    perl: Child,
}

impl Cut {
    /// Gets ready to cut the file system mounted at `dir`.
    pub fn arm(dir: &Path) -> Result<Self, String> {
        let mut perl = tool("perl");
        perl.args(["-e", CUT]).arg(dir);
        perl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut perl = perl.spawn().map_err(|error| format!("perl: {error}"))?;
        let mut armed = [0; 6];
        let is_armed = perl.stdout.as_mut().unwrap().read_exact(&mut armed).is_ok();
        if is_armed { Ok(Cut { perl }) } else { Cut { perl }.now() }
    }

    /// Cuts. When this returns nothing reaches the device any more.
    pub fn now(mut self) -> Result<Self, String> {
        let _ = self.perl.stdin.take().unwrap().write_all(b"\n");
        let mut stderr = String::new();
        self.perl.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let is_done = self.perl.wait().unwrap().success();
        if is_done { Ok(self) } else { Err(format!("perl: {}", stderr.trim())) }
    }
}

/// A program of the system's, which may stand where only root looks.
fn tool(name: &str) -> Command {
    let path = env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// Runs it; what it says if it fails.
fn tell(mut command: Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", stderr.lines().next().unwrap_or("failed")))
}
