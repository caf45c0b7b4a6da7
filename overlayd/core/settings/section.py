"""What every part of the configuration is: frozen values, and no unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict

from overlayd.core.settings import values

Port = Annotated[int, values.integer(1, 65535)]
Flag = Annotated[bool, values.parser(values.boolean)]
FileName = Annotated[str, values.parser(values.file_name)]


class Section(BaseModel):
    """A mapping of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
