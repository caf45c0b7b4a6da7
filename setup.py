"""The native packet engine. Where it cannot be built, overlayd installs without it and runs the readable engine."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "overlayd.datapath.native",
            sources=["overlayd/datapath/native.c"],
            depends=sorted(glob("overlayd/datapath/native_*.h")),
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-std=gnu11", "-O3"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
