#!/bin/sh
# Remove from an environment what a scan never loads: trim.sh FOLDER. `covct doctor` tries in the build what is left.
set -eu
python=$1/bin/python
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Tests of packages, and what serves to compile extensions of TensorFlow (350 MB) and OpenVINO.
for package in jpeg_ls nibabel numpy pynetdicom; do
    find "$site/$package" -type d -name tests -prune -exec rm -rf {} +
done
rm -rf "$site/tensorflow/include" "$site/openvino/include"

# OpenVINO: other devices, and readers of networks of other kinds. TensorFlow's is for `covct export openvino`.
rm -f "$site"/openvino/libs/cache.json "$site"/openvino/libs/libopenvino_intel_[gn]pu_plugin.so
for kind in gguf jax onnx paddle pytorch tensorflow_lite; do
    rm -f "$site/openvino/libs/libopenvino_${kind}_frontend.so".*
done
[ -d "$site/tensorflow" ] || rm -f "$site"/openvino/libs/libopenvino_tensorflow_frontend.so.*

# Codecs that are none of DICOM's: these stay, and the libraries that they need.
cd "$site/imagecodecs"
for codec in _*.so; do
    case $codec in _shared*|_imcd.*|_jpeg8.*|_ljpeg.*|_jpegls.*|_jpeg2k.*|_htj2k.*|_zlib.*) ;; *) rm "$codec" ;; esac
done
cd "$site/imagecodecs.libs"
for library in lib*; do
    case $library in libjpeg-*|libcharls-*|libopenjp2-*|libopenjph-*|liblcms2-*) ;; *) rm "$library" ;; esac
done

# What installs packages: last, as it uninstalls. setuptools stays where a package needs it.
needed=$("$python" -m pip show setuptools 2>/dev/null | sed -n 's/^Required-by: *//p')
[ -n "$needed" ] || "$python" -m pip uninstall --quiet --yes setuptools
"$python" -m pip uninstall --quiet --yes libclang pip
