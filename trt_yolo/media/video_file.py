"""A video file as FFmpeg reads it, through PyAV: its frames, upright, and whether it is whole.

Enters: a path. Leaves: (H, W, 3) uint8 BGR frames. What the decoder says decides: a container's number of frames is a
guess from its duration, or counts hidden frames. Knows no GPU.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import ImageError
from trt_yolo.hardware.cores import usable_cpus

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from typing_extensions import Self

_Frame = npt.NDArray[np.uint8]

_CONTAINERS = "give an MP4, MKV, AVI, MOV or WebM file"
_MATROSKA, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


class VideoFile:
    """An open video file. A context manager.

    Attributes:
        path: The file.
        count: Frames that were decoded so far; a GPU's are counted by who decodes them.

    Raises:
        ImageError: No video, sound only, or a codec that FFmpeg does not decode here.
    """

    def __init__(self, path: Path) -> None:
        import av  # loads FFmpeg, which images do not need

        self.path = path
        self.count = 0
        self._complaint = ""
        try:  # `file:`, or FFmpeg takes 12:30.mp4 for a protocol; a playlist must not lead into the network
            self._container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
        except av.FFmpegError as error:
            raise ImageError(
                f"{path} cannot be decoded as a video, or its end is missing ({error.strerror}); "
                f"copy it again, or {_CONTAINERS}"
            ) from error
        try:
            self._stream = _video_stream(self._container, path)
        except ImageError:
            self._container.close()
            raise
        self._codec_name = self._stream.codec_context.codec.canonical_name.upper()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def frames(self) -> Iterator[_Frame]:
        """(H, W, 3) uint8 BGR, in order, each an array of its own.

        A frame that the decoder complains of is left out, and so is what was predicted from it, up to the next key
        frame. What precedes the first sound frame does not count: recordings begin anywhere.
        """
        from av.video.reformatter import VideoReformatter

        reformatter, threads = VideoReformatter(), usable_cpus().count
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = threads
        is_sound = True
        for frame in self._decoded():
            if frame is None or frame.is_corrupt:
                is_sound = False
                self._complain("a damaged frame")
                continue
            is_sound = is_sound or frame.key_frame
            if is_sound:
                self._complaint = self._complaint if self.count else ""
                self.count += 1
                bgr = reformatter.reformat(frame, format="bgr24", threads=threads)
                yield _upright(np.asarray(bgr.to_ndarray(), np.uint8), _matrix(frame))

    def check_end(self) -> None:
        """After the last frame.

        Raises:
            ImageError: None could be decoded, the decoder complained, or the file ends before its container does.
        """
        if not self.count:
            raise ImageError(
                f"{self.path} holds {self._codec_name} video, of which no frame could be decoded "
                f"({self._complaint or 'it has none'}); copy it again, or {_CONTAINERS}"
            )
        decoded = f"{self.count} frames could be decoded"
        if self._is_cut_short():
            raise ImageError(f"{self.path} is cut short: {decoded}, its end is missing; copy it again")
        if self._complaint:
            raise ImageError(
                f"{self.path} is damaged: {decoded}, and FFmpeg reported {self._complaint}; copy it again"
            )

    def check_plain(self) -> None:
        """Refuses a file with hidden or rotated frames, for a decoder that ignores edit lists and rotation.

        Raises:
            ImageError: A frame before the first shown one is hidden, or the frames are stored rotated.
        """
        from av import FFmpegError

        for packet in self._packets():
            frames = []
            with contextlib.suppress(FFmpegError):
                frames = self._stream.codec_context.decode(packet)
            is_hidden = packet is not None and packet.is_discard
            if is_hidden or (frames and not np.array_equal(_matrix(frames[0]), _UPRIGHT)):
                raise ImageError(
                    f"{self.path} has rotated or hidden frames, which the GPU decoder returns as they are stored; "
                    "try the decoder cpu"
                )
            if frames:
                return

    def _decoded(self) -> Iterator[VideoFrame | None]:
        """The decoder's frames, None for what is lost; notes what FFmpeg complained of."""
        from av import FFmpegError

        for packet in self._packets():
            try:
                yield from self._stream.codec_context.decode(packet)
            except FFmpegError as error:
                self._complain(f'"{error.strerror}"')
                yield None

    def _packets(self) -> Iterator[Any]:
        """The stream's packets, but for a last one that is cut off; then None, for what the decoder still holds."""
        from av import FFmpegError

        doubtful = None  # one is marked after every gap in the stream, and may be whole
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:  # the end
                    continue
                if doubtful is not None:
                    yield doubtful
                doubtful = packet if packet.is_corrupt else None
                if doubtful is None:
                    yield packet
        except FFmpegError as error:
            self._complain(f'"{error.strerror}"')
        if doubtful is not None:
            self._complain("a frame that is cut off")
        yield None

    def _complain(self, of: str) -> None:
        self._complaint = self._complaint or of

    def _is_cut_short(self) -> bool:
        """Whether the container places something beyond the end of the file; demuxers end there without a word."""
        size = self.path.stat().st_size
        if self._container.format.name.startswith("mov"):
            entries = self._stream.index_entries
            return len(entries) > 0 and entries[-1].pos + entries[-1].size > size
        with self.path.open("rb") as file:
            return _matroska_end(file.read(256)) > size


def _upright(image: _Frame, matrix: npt.NDArray[np.int32]) -> _Frame:
    """The image as it is to be shown.

    Args:
        image: (H, W, 3) uint8.
        matrix: (3, 3), FFmpeg's display matrix: a point's x and y times it are where it is shown.
    """
    a, b, c, d = matrix[:2, :2].ravel().tolist()
    if a == d == 0:  # x is shown as y
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


_UPRIGHT = np.diag(np.array([1 << 16, 1 << 16, 1 << 30], np.int32))


def _matrix(frame: VideoFrame) -> npt.NDArray[np.int32]:
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return _UPRIGHT if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first that is no cover picture."""
    from av.stream import Disposition

    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams:
        held = "sound and no video" if container.streams.audio else "no video"
        raise ImageError(f"{path} holds {held}; {_CONTAINERS}")
    if streams[0].codec_context is None:
        raise ImageError(
            f"{path} holds {_unknown_codec(container)} video, which this build of FFmpeg does not decode; "
            "convert it to H.264"
        )
    return streams[0]


def _unknown_codec(container: Any) -> str:
    """The name of a codec without a decoder, which only FFmpeg's description of the file tells."""
    from av import logging

    before = logging.get_level()
    logging.set_level(logging.INFO)
    try:
        described = re.search(r"Video: (?:none \()?(?!none)(\w+)", container.dumps_format())
    finally:
        logging.set_level(before)
    return described[1].upper() if described else "an unknown kind of"


def _matroska_end(head: bytes) -> int:
    """Where a Matroska or WebM file's segment ends (RFC 9559); 0 for other files, and where it does not say."""
    if not head.startswith(_MATROSKA):
        return 0
    header_size, at = _matroska_size(head, len(_MATROSKA))
    at += header_size
    if not head.startswith(_SEGMENT, at):
        return 0
    size, at = _matroska_size(head, at + len(_SEGMENT))
    return at + size if size else 0


def _matroska_size(head: bytes, at: int) -> tuple[int, int]:
    """A size of a variable number of bytes (0 if all its bits say unknown), and where it ends."""
    length = 9 - head[at].bit_length()
    mask = (1 << 7 * length) - 1
    size = int.from_bytes(head[at : at + length], "big") & mask
    return (0 if size == mask else size), at + length
