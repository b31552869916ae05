#!/bin/sh
# Make the files of an example workload: images/workloads/build.sh hello|web|job OUTDIR
# OUTDIR/rootfs is a root filesystem for `krunpy run`; OUTDIR itself is what `podman build` needs.
# Everything comes from programs of this machine (busybox; python3 for web): no registry, no network, no root.
set -eu
name=${1:-} out=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
case $name in hello | web | job) ;; *) echo "usage: build.sh hello|web|job OUTDIR" >&2; exit 2 ;; esac
[ -n "$out" ] || { echo "usage: build.sh hello|web|job OUTDIR" >&2; exit 2; }
[ ! -e "$out/rootfs" ] || { echo "build.sh: $out/rootfs exists already" >&2; exit 1; }
root=$out/rootfs
umask 022

copy_program() { # FILE: into the root filesystem at the same path, with the libraries it loads
  for file in "$1" $(ldd "$1" 2>/dev/null | sed -n 's/^[^\/]*\(\/[^ ]*\) (0x.*/\1/p'); do
    [ -e "$root$file" ] || { mkdir -p "$root$(dirname "$file")" && cp -L "$file" "$root$file"; }
  done
}

make_base() {
  mkdir -p "$root/bin" "$root/dev" "$root/etc" "$root/proc" "$root/root" "$root/sys" "$root/usr" "$root/var"
  mkdir -m 1777 "$root/tmp"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
}

copy_busybox() {
  busybox=$(command -v busybox) || { echo "build.sh: busybox is missing: apt-get install busybox-static" >&2; exit 1; }
  busybox=$(readlink -f "$busybox")
  copy_program "$busybox"
  [ -e "$root/bin/busybox" ] || mv "$root$busybox" "$root/bin/busybox"
  "$busybox" --list | while read -r applet; do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
}

copy_python() { # the interpreter and its standard library, without what a service has no use for
  python=$(readlink -f /usr/bin/python3)
  library=$("$python" -IS -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
  copy_program "$python"
  mkdir -p "$root$library"
  (cd "$library" && tar -c --exclude=__pycache__ --exclude='config-*' --exclude=test --exclude=idlelib \
    --exclude=lib2to3 --exclude=ensurepip --exclude=tkinter --exclude=dist-packages --exclude=turtledemo \
    --exclude=pydoc_data --exclude=sitecustomize.py .) | tar -x -C "$root$library" --no-same-owner
  for module in "$root$library"/lib-dynload/*.so; do copy_program "${module#"$root"}"; done
  ln -s "$python" "$root/bin/python3"
}

make_base
case $name in
  web) copy_python ;;
  *) copy_busybox ;;
esac
[ ! -d "$here/$name/files" ] || cp -R "$here/$name/files/." "$root/"
cp "$here/$name/Containerfile" "$out/Containerfile"
