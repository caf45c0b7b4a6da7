"""The native packet engine. Where it cannot be built, overlayd installs without it and runs the readable engine."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "overlayd.datapath.native",
            sources=["overlayd/datapath/native.c"],
            depends=[str(header) for header in Path("overlayd/datapath").glob("native_*.h")],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-std=gnu11", "-O3"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
