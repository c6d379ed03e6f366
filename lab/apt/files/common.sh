# Shared by the lab's stand-ins for NVIDIA's driver and its tools; read by sh. NVIDIA_STAND_IN_ROOT is for tests.
root=${NVIDIA_STAND_IN_ROOT:-}
installed=$root/usr/share/nvidia-stand-in
running=$root/run/nvidia-stand-in
requests=$root/etc/nvidia-stand-in

# Where the installed module is told, and whether Canonical signed it; depmod prefers what DKMS built to a prebuilt one.
module_file=$installed/module signed=no
[ -r "$module_file" ] || module_file=$installed/prebuilt/$(uname -r) signed=yes

# The first line of a request, else its default.
requested() {
    if [ -r "$requests/$1" ]; then head -n 1 "$requests/$1"; else printf '%s\n' "${2:-}"; fi
}

# Sets name, memory, capability, power, pci_id, chip, pci_class and open_only of the card that is asked for.
card=$(requested card "RTX 5090")
case $card in
    "RTX 5090")
        name="NVIDIA GeForce RTX 5090" memory=32607 capability=12.0 power=575.00 pci_id=2b85 open_only=yes
        chip="GB202 [GeForce RTX 5090]" pci_class="VGA compatible controller" class_id=0300 ;;
    H200)
        name="NVIDIA H200" memory=143771 capability=9.0 power=700.00 pci_id=2335 open_only=no
        chip="GH100 [H200 SXM 141GB]" pci_class="3D controller" class_id=0302 ;;
    none) name="" memory=0 capability="" power=0 pci_id="" open_only=no chip="" pci_class="" class_id="" ;;
    *) echo "nvidia-stand-in: $requests/card is '$card'; it knows 'RTX 5090', 'H200' and 'none'" >&2; exit 2 ;;
esac
count=$(requested count 1)
[ "$card" != none ] || count=0

bus() { printf '%02x:00.0' $((${1} + 1)); }

uuid() { printf 'GPU-00000000-57a4-4d14-8000-%012x' "$1"; }

# Words of a file such as "580.126.20 open"; nothing without the file.
word() {
    [ -r "$1" ] || return 0
    read -r first second <"$1" || true
    if [ "$2" = 1 ]; then printf '%s' "$first"; else printf '%s' "${second:-}"; fi
}
