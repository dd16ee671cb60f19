"""Why a study did not run: situations of real life, and where `casework why` says that each stands. docs/why.md is made of it.

Each row is a test of its own in test_situations.py: the situation is brought about, the question is asked, and the answer
has to name the stage and the code, say when, and say what to do, in English and Chinese.
"""

from dataclasses import dataclass

from casework.ledger import Stage

_S = Stage


@dataclass(frozen=True)
class Situation:
    """What happened, in both languages, and what the answer names."""

    en: str
    zh: str
    stage: Stage
    code: str


SITUATIONS: dict[str, Situation] = {
    "never_heard": Situation("Nobody ever sent it.", "从未有人发送。", _S.ASSOCIATION, "NEVER_ARRIVED"),
    "wrong_port": Situation("The sender uses another port or address.", "发送方使用了其他端口或地址。", _S.ASSOCIATION, "NEVER_ARRIVED"),
    "wrong_calling": Situation("The sender's AE title is not on the list.", "发送方的AE标题不在列表中。", _S.ASSOCIATION, "AE_NOT_ALLOWED"),
    "wrong_called": Situation("The sender calls another AE title.", "发送方呼叫了其他AE标题。", _S.ASSOCIATION, "AE_NOT_ALLOWED"),
    "tls": Situation("The sender speaks TLS to a plain port.", "发送方以TLS连接明文端口。", _S.ASSOCIATION, "TLS_FAILED"),
    "no_class": Situation("The sender offers only objects that are not taken here.", "发送方只提供本服务不接收的对象。", _S.ASSOCIATION, "SOP_CLASS_NOT_ACCEPTED"),
    "broke_off": Situation("The sender broke off before the first image was whole.", "发送方在首幅图像完整前中断。", _S.ASSOCIATION, "NEVER_ARRIVED"),
    "disk": Situation("The disk was too full to let the sender in.", "磁盘过满，未接受发送方。", _S.ASSOCIATION, "DISK_LOW"),
    "disk_in_between": Situation("The disk was too full for an image.", "磁盘过满，未能接收图像。", _S.ADMISSION, "DISK_LOW"),
    "listener_down": Situation("The listener is not running.", "接收进程未运行。", _S.ASSOCIATION, "LISTENER_DOWN"),
    "pacs_holds": Situation("The PACS has it and never routed it.", "PACS中有该检查但从未路由。", _S.ASSOCIATION, "PACS_HOLDS_IT"),
    "pacs_has_none": Situation("The PACS has never heard of it either.", "PACS中也没有该检查。", _S.ASSOCIATION, "PACS_HOLDS_NOTHING"),
    "pacs_silent": Situation("The PACS can't be asked.", "无法查询PACS。", _S.ASSOCIATION, "PEER_UNREACHABLE"),
    "modality": Situation("Its modality is not one of MG, MR, US.", "检查类型不是MG、MR、US。", _S.ADMISSION, "MODALITY_NOT_ACCEPTED"),
    "no_patient_id": Situation("It has no Patient ID.", "没有患者ID。", _S.ADMISSION, "PATIENT_ID_MISSING"),
    "uid_mismatch": Situation("The data set is another study than the request named.", "数据集与请求中的检查不一致。", _S.ADMISSION, "UID_MISMATCH"),
    "own_result": Situation("It is a result of this service that came back.", "返回的是本服务自己的结果。", _S.ADMISSION, "OWN_RESULT"),
    "open": Situation("Its sender's association is still open.", "发送方的连接尚未结束。", _S.CASE, "ASSOCIATION_OPEN"),
    "quiet": Situation("Images may still be coming.", "图像可能仍在传入。", _S.CASE, "QUIET_TIME"),
    "short": Situation("Fewer images are here than the PACS holds.", "收到的图像少于PACS持有的图像。", _S.CASE, "COUNT_INCOMPLETE"),
    "modality_wait": Situation("The site waits for another modality.", "按策略等待其他影像。", _S.CASE, "WAITING_FOR_MODALITY"),
    "keeper_down": Situation("Nobody puts cases together.", "病例整理进程未运行。", _S.CASE, "KEEPER_DOWN"),
    "cancelled": Situation("A person closed the case.", "病例被人工关闭。", _S.CASE, "CANCELLED"),
    "superseded": Situation("A newer revision replaced it.", "已被新版本取代。", _S.CASE, "SUPERSEDED"),
    "retracted": Situation("A person withdrew the result.", "结果已被人工撤回。", _S.CASE, "RETRACTED_SAFETY"),
    "excluded": Situation("A person took its only image out.", "唯一的图像被人工排除。", _S.CASE, "ALL_EXCLUDED"),
    "fetching": Situation("Other studies are being fetched.", "正在获取其他检查。", _S.FETCH, "FETCHING"),
    "candidate_rejected": Situation("The PACS named it, and it was not wanted.", "PACS列出了该检查，但未被选用。", _S.FETCH, "FETCH_BODY_PART"),
    "candidate_failed": Situation("It could not be fetched.", "未能获取该检查。", _S.FETCH, "FETCH_MOVE_UNKNOWN"),
    "candidate_waits": Situation("It is to be fetched after the quiet hours.", "将在静默时段后获取。", _S.FETCH, "FETCH_CHOSEN"),
    "candidate_excluded": Situation("A person does not want it fetched.", "被人工排除，不获取。", _S.FETCH, "CANCELLED"),
    "fetcher_down": Situation("Nobody fetches.", "获取进程未运行。", _S.FETCH, "FETCHER_DOWN"),
    "side_unknown": Situation("No image says which side it is of.", "图像均未标明侧别。", _S.GATE, "NO_USABLE_IMAGE"),
    "gate_stop": Situation("The site's gate stops a case without this view.", "按站点准入规则，缺少体位的病例停止分析。", _S.GATE, "VIEW_MISSING"),
    "decoder": Situation("The decoder crashed on its only image.", "唯一的图像使解码器崩溃。", _S.GATE, "NO_USABLE_IMAGE"),
    "identity": Situation("Two studies of the patient contradict each other.", "患者的两项检查互相矛盾。", _S.GATE, "PATIENT_IDENTITY_CONFLICT"),
    "queued": Situation("Others are ahead in the queue.", "队列中前面还有其他病例。", _S.QUEUE, "QUEUED"),
    "worker_down": Situation("No inference worker is running.", "没有分析进程在运行。", _S.QUEUE, "WORKER_DOWN"),
    "model_refused": Situation("The worker refuses its model at start.", "分析进程启动时拒绝其模型。", _S.QUEUE, "MODEL_INVALID"),
    "running": Situation("It is being analysed at this moment.", "正在分析。", _S.ENGINE, "RUNNING"),
    "retry": Situation("A try failed and the next is scheduled.", "一次尝试失败，已安排下一次。", _S.ENGINE, "RETRY_LATER"),
    "self_check": Situation("The result failed its own check.", "结果未通过自检。", _S.ENGINE, "RESULT_SELF_CHECK"),
    "lost_workers": Situation("Every worker that took it died.", "处理它的进程均已终止。", _S.ENGINE, "ATTEMPTS_EXHAUSTED"),
    "unreachable": Situation("The destination can't be reached.", "无法连接目的地。", _S.SEND, "RETRY_LATER"),
    "refused": Situation("The destination refuses the result.", "目的地拒绝了结果。", _S.SEND, "PEER_REFUSED_OBJECT"),
    "sender_down": Situation("Nobody sends results.", "发送进程未运行。", _S.SEND, "SENDER_DOWN"),
    "unproved": Situation("The destination has not proved that it holds the result.", "目的地尚未证明持有结果。", _S.COMMIT, "PROOF_PENDING"),
    "no_destination": Situation("No destination is configured.", "未配置目的地。", _S.DONE, "NO_DESTINATION"),
    "delivered": Situation("It did run.", "已经运行。", _S.DONE, "DELIVERED"),
}  # fmt: skip
