"""The native packet engine. Where it cannot be built, overlayd installs without it and runs the readable engine.

OVERLAYD_CFLAGS adds compiler flags to this extension alone, and it has to be built then: a developer's build, with
warnings as errors, fails rather than leave tests of the engine skipped.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

flags = os.environ.get("OVERLAYD_CFLAGS", "").split()

setup(
    ext_modules=[
        Extension(
            "overlayd.datapath.native._native",
            sources=["overlayd/datapath/native/module.c"],
            depends=[str(header) for header in Path("overlayd/datapath/native").glob("*.h")],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-std=gnu11", "-O3", *flags],
            extra_link_args=flags,
            py_limited_api=True,
            optional=not flags,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
