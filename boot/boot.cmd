# SPDX-License-Identifier: MIT OR Apache-2.0
#
# U-Boot script that starts Tagstash with a guest. boot/disk.py makes a disk with it and the other files; by hand:
#
#     mkimage -A arm64 -T script -C none -n tagstash -d boot/boot.cmd boot.scr
#
#     tagstash.img    the shim, with the board's overlay in it (boot/embed.py)
#     Image           the guest's kernel, not compressed; left out where tagstash.img carries it (boot/pack.py)
#     initrd.img      its initial ramdisk; may be left out
#     tagstash.itb    all of them in one FIT (boot/fit.py); has precedence
#     tagstash.env    name=value lines that set what is below; may be left out
#
# Most boards run /boot.scr of the boot partition by themselves. By hand: load it to ${scriptaddr}, set devtype, devnum and
# distro_bootpart (such as virtio, 0, 1), and `source ${scriptaddr}`.
#
# What tagstash.env may set:
#
#     guest_bootargs         the guest's command line; that of a packed file or of a FIT is in there
#     tagstash_addr          the shim, a multiple of 2 MiB. It needs 12 MiB; a packed file, what its header says.
#     guest_addr             the kernel, a multiple of 2 MiB
#     initrd_addr            the ramdisk
#     tree_from              the device tree to start from (U-Boot's own), and
#     tree_addr              where it is put to be changed, a multiple of 8
#     fit_addr               the FIT, while it is unpacked
#
# The defaults are for U-Boot's qemu_arm64. All of it has to lie in RAM below 4 GiB, clear of the other things, and outside
# of tag storage: the shim refuses storage that overlaps its image, a module or the tree. U-Boot itself sits at the top of
# RAM. If that is tag storage it does not matter, because U-Boot is gone when the shim starts.

setenv tree_addr 0x40300000
setenv tagstash_addr 0x40400000
setenv guest_addr 0x41200000
setenv initrd_addr 0x48000000
setenv fit_addr 0x50000000
setenv tree_from ${fdtcontroladdr}
setenv guest_bootargs
setenv where ${devtype} ${devnum}:${distro_bootpart}

if test -e ${where} ${prefix}tagstash.env; then
    load ${where} ${tree_addr} ${prefix}tagstash.env && env import -t ${tree_addr} ${filesize}
fi

# Left where they are: U-Boot would move tree and ramdisk to the top of RAM.
setenv fdt_high 0xffffffffffffffff
setenv initrd_high 0xffffffffffffffff

# A FIT has the tree in it, with the modules described.
if test -e ${where} ${prefix}tagstash.itb; then
    load ${where} ${fit_addr} ${prefix}tagstash.itb && bootm ${fit_addr}
    echo "boot.cmd: ${prefix}tagstash.itb does not start"
    exit
fi

# The tree, with room for what follows.
fdt addr ${tree_from}
fdt move ${tree_from} ${tree_addr}
fdt resize 0x2000
fdt get size unused /chosen || fdt mknode / chosen
fdt set /chosen "#address-cells" <2>
fdt set /chosen "#size-cells" <2>

# The guest's kernel and ramdisk are modules, as for Xen.
if test -e ${where} ${prefix}Image; then
    if load ${where} ${guest_addr} ${prefix}Image; then
        fdt mknode /chosen module@0
        fdt set /chosen/module@0 compatible "multiboot,kernel" "multiboot,module"
        fdt set /chosen/module@0 reg <0x0 ${guest_addr} 0x0 0x${filesize}>
        fdt set /chosen/module@0 bootargs "${guest_bootargs}"
    else
        echo "boot.cmd: ${prefix}Image, the kernel of the guest, cannot be loaded"
    fi
else
    echo "boot.cmd: no ${prefix}Image: ${prefix}tagstash.img has to carry the kernel of the guest (boot/pack.py)"
fi
if test -e ${where} ${prefix}initrd.img; then
    if load ${where} ${initrd_addr} ${prefix}initrd.img; then
        fdt mknode /chosen module@1
        fdt set /chosen/module@1 compatible "multiboot,ramdisk" "multiboot,module"
        fdt set /chosen/module@1 reg <0x0 ${initrd_addr} 0x0 0x${filesize}>
    else
        echo "boot.cmd: ${prefix}initrd.img, the ramdisk of the guest, cannot be loaded: it starts without one"
    fi
fi

load ${where} ${tagstash_addr} ${prefix}tagstash.img && booti ${tagstash_addr} - ${tree_addr}
echo "boot.cmd: ${prefix}tagstash.img does not start"
