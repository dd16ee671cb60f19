"""The timeline's words: stages and events in English and Chinese, for the terminal, the API and the page. Does no I/O."""

from collections.abc import Mapping
from typing import Literal

from casework.ledger import Moment, Stage
from casework.reasons import REASONS

Language = Literal["en", "zh"]

STAGES: Mapping[Stage, tuple[str, str]] = {
    Stage.ASSOCIATION: ("connection", "连接"),
    Stage.ADMISSION: ("admission", "接收"),
    Stage.CASE: ("case", "病例"),
    Stage.FETCH: ("fetch", "获取"),
    Stage.GATE: ("gate", "准入"),
    Stage.QUEUE: ("queue", "排队"),
    Stage.ENGINE: ("analysis", "分析"),
    Stage.SEND: ("sending", "发送"),
    Stage.COMMIT: ("proof", "证明"),
    Stage.DONE: ("done", "完成"),
}
EVENTS: Mapping[str, tuple[str, str]] = {
    "association.open": ("A sender is connected.", "发送方已连接。"),
    "association.released": ("A sender connected and ended properly.", "发送方连接并正常结束。"),
    "association.empty": (
        "A sender connected and sent nothing; perhaps none of its object classes is taken here.",
        "发送方已连接但未发送任何对象；可能其对象类均不被接收。",
    ),
    "association.aborted": ("A sender connected and broke off.", "发送方连接后中断。"),
    "association.rejected": ("A connection was turned away.", "连接被拒绝。"),
    "association.lost": ("A connection was open when the listener died.", "接收进程终止时连接仍未结束。"),
    "images.accepted": ("Images were taken.", "图像已接收。"),
    "images.duplicate": ("Images came that were here already.", "收到已存在的图像。"),
    "images.kept_aside": ("Images were kept aside.", "图像被另行保存。"),
    "images.refused": ("Images were refused.", "图像被拒绝。"),
    "case.opened": ("A case was opened.", "病例已建立。"),
    "case.succeeded": ("A newer revision was opened.", "已建立新版本。"),
    "case.retry_asked": ("A person asked to try again.", "有人要求重试。"),
    "case.resend_asked": ("A person asked to send again.", "有人要求重新发送。"),
    "case.decided": ("A person decided about images.", "有人对图像作出了决定。"),
    "analysis.requested": ("An analysis was asked for.", "已请求分析。"),
    "instances.excluded": ("A person took images out.", "有人排除了图像。"),
    "instances.restored": ("A person put images back.", "有人恢复了图像。"),
    "case.rendered": ("The results were made.", "结果已生成。"),
    "case.receiving": ("The case is put together again.", "病例重新归并。"),
    "case.stable": ("Everything that is waited for is here.", "所等待的图像均已到齐。"),
    "delivery.stored": ("The destination stored an object.", "目的地已保存一个对象。"),
    "delivery.committed": ("It is proved that the destination has an object.", "已证明目的地持有一个对象。"),
    "delivery.proof_waived": ("No proof can be had from this destination.", "该目的地无法提供证明。"),
    "delivery.cancelled": ("An object is not sent any more.", "不再发送一个对象。"),
    "commitment.reported": ("A destination reported on its storage.", "目的地已报告存储情况。"),
    "job.cancelled": ("The place in the queue was given up.", "已退出队列。"),
    "fetch.order.listed": ("The PACS named the patient's studies.", "PACS已列出该患者的检查。"),
}


def describe(moment: Moment, language: Language) -> str:
    """What happened, in words: the reason's where there is one, else the event's."""
    zh = language == "zh"
    if moment.code in REASONS:
        row = REASONS[moment.code]
        words = row.zh if zh else row.en
    elif moment.event in EVENTS:
        words = EVENTS[moment.event][zh]
    else:
        words = moment.event.replace(".", " ").replace("_", " ")
    return f"{moment.count} x {words}" if moment.count > 1 else words


def about(moment: Moment) -> str:
    """Who, what and where, without words: actor, subject and the details."""
    details = ", ".join(f"{key} {value}" for key, value in moment.detail.items() if key not in ("from", "to"))
    return " ".join(part for part in (moment.actor, moment.subject, f"({details})" if details else "") if part)
