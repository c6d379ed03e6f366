#!/bin/sh
# Triton Inference Server 2.51.0 out of the nvidia-pytriton wheel, laid out as in the official image.
set -eu
python3 - <<'PYTHON'
import glob
import shutil
import zipfile

zipfile.ZipFile(glob.glob("/wheels/nvidia_pytriton-*.whl")[0]).extractall("/tmp/wheel")
shutil.copytree("/tmp/wheel/pytriton/tritonserver", "/opt/tritonserver")
shutil.copytree("/tmp/wheel/nvidia_pytriton.libs", "/opt/tritonserver/lib")
shutil.copy("/opt/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub", "/opt/tritonserver/backends/python")
shutil.rmtree("/opt/tritonserver/python_backend_stubs")
shutil.rmtree("/tmp/wheel")
PYTHON
rm -f /opt/tritonserver/lib/libpython3*
chmod 0755 /opt/tritonserver/bin/tritonserver /opt/tritonserver/backends/python/triton_python_backend_stub
install -m 0755 /lab/images/tritonserver-entrypoint /opt/tritonserver/entrypoint
