//! Rough drive by hand: drive VMLINUX AGENT USERLAND SCRATCH EVENT -- ARGV
use std::{collections::BTreeMap, time::Duration};

use crucible_engine::{event::EventSpec, guest::Guest};
use crucible_protocol::{KEEP_DIR, RUN_DIR, Stopped};
use crucible_vmm::{Disk, MachineSpec, qemu};

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let dir = std::path::PathBuf::from("/root/bed/run");
    std::fs::create_dir_all(&dir).unwrap();
    let mut spec = MachineSpec::new(&a[1], &dir);
    spec.disks = vec![
        Disk::readonly(&a[2]),
        Disk::readonly(&a[3]),
        Disk::writable(&a[4]),
    ];
    spec.cmdline = [
        "root=/dev/vda",
        "rootfstype=erofs",
        "ro",
        "init=/agent",
        "loglevel=7",
    ]
    .map(String::from)
    .to_vec();
    let machine = qemu::QemuMachine::start(&spec, &qemu::Options::default()).unwrap();
    let mut g = Guest::connect(Box::new(machine), Duration::from_secs(60)).unwrap();
    println!("{:?}", g.info());
    let env: BTreeMap<_, _> = [("PATH", "/usr/bin:/bin"), ("HOME", "/root")]
        .map(|(k, v)| (k.into(), v.into()))
        .into();
    let limit = Duration::from_secs(60);
    g.prepare(None).unwrap();
    let event: EventSpec = a[5].parse().unwrap();
    g.start("a", &a[7..], &env, "/work", Some(event.trigger()))
        .unwrap();
    let s = g.wait("a", limit).unwrap();
    println!("{s:?}");
    if let Stopped::Frozen(_) = s {
        let show = |o: &crucible_protocol::Observation| {
            for t in &o.tasks {
                println!(
                    "{} {} {} {} {} {:?}",
                    t.pid, t.tid, t.ppid, t.comm, t.state, t.site
                )
            }
        };
        let before = g.observe("a").unwrap();
        show(&before);
        let image = format!("{KEEP_DIR}/image");
        let t = g
            .checkpoint("a", &image, &format!("{KEEP_DIR}/c.log"), limit)
            .unwrap();
        println!(
            "checkpoint: {t:?}\n{}",
            String::from_utf8_lossy(&g.read_file(&format!("{KEEP_DIR}/c.log")).unwrap())
        );
        if t.success() {
            g.kill("a").unwrap();
            let r = g
                .restart("a", &image, &format!("{KEEP_DIR}/r.log"), limit)
                .unwrap();
            println!(
                "restart: {r:?}\n{}",
                String::from_utf8_lossy(&g.read_file(&format!("{KEEP_DIR}/r.log")).unwrap())
            );
            if r.is_ok() {
                let after = g.observe("a").unwrap();
                show(&after);
                for (b, a) in before.tasks.iter().zip(&after.tasks) {
                    for (k, v) in &b.facts {
                        if a.facts.get(k) != Some(v) {
                            println!("pid {} {k}:\n- {v}\n+ {:?}", b.pid, a.facts.get(k));
                        }
                    }
                }
            }
        }
        g.thaw("a").unwrap();
        println!("{:?}", g.wait("a", limit).unwrap());
    }
    for f in ["stdout", "stderr"] {
        println!(
            "{f}: {}",
            String::from_utf8_lossy(&g.read_file(&format!("{RUN_DIR}/{f}")).unwrap())
        );
    }
    println!("{:?}", g.list("/work", &[".crucible"]).unwrap());
    g.shutdown().unwrap();
}
